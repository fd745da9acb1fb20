//! The methods that a broker sends, and their arguments (AMQP 0-9-1, `amqp0-9-1.xml`, and RabbitMQ's extensions).

/// An argument of a method.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// This many bytes. Bits share a byte.
    Fixed(usize),
    /// A short string, and what it is called.
    Short(&'static str),
    Long,
    Table,
}

pub(super) const CONNECTION: u16 = 10;
pub(super) const DELIVER: (u16, u16) = (60, 60);
pub(super) const GET_OK: (u16, u16) = (60, 71);
pub(super) const RETURN: (u16, u16) = (60, 50);
pub(super) const CHANNEL_CLOSE: (u16, u16) = (20, 40);
pub(super) const CHANNEL_CLOSE_OK: (u16, u16) = (20, 41);

/// The arguments of a method; none if it is no broker's.
pub(super) fn arguments(method: (u16, u16)) -> Option<&'static [Argument]> {
    use Argument::{Fixed, Long, Short, Table};
    Some(match method {
        // connection: start, secure, tune, open-ok, close, close-ok, blocked, unblocked, update-secret-ok
        (CONNECTION, 10) => &[Fixed(2), Table, Long, Long],
        (CONNECTION, 20) => &[Long],
        (CONNECTION, 30) => &[Fixed(8)],
        (CONNECTION, 41) => &[Short("host")],
        (CONNECTION, 50) | CHANNEL_CLOSE => &[Fixed(2), Short("reply text"), Fixed(4)],
        (CONNECTION, 51 | 61 | 71) | CHANNEL_CLOSE_OK => &[],
        (CONNECTION, 60) => &[Short("reason")],
        // channel: open-ok, flow, flow-ok
        (20, 11) => &[Long],
        (20, 20 | 21) => &[Fixed(1)],
        // access.request-ok
        (30, 11) => &[Fixed(2)],
        // exchange: declare-ok, delete-ok, bind-ok, unbind-ok
        (40, 11 | 21 | 31 | 51) => &[],
        // queue: declare-ok, bind-ok, purge-ok, delete-ok, unbind-ok
        (50, 11) => &[Short("queue"), Fixed(8)],
        (50, 21 | 51) => &[],
        (50, 31 | 41) => &[Fixed(4)],
        // basic: qos-ok, consume-ok, cancel, cancel-ok, return, deliver, get-ok, get-empty, ack, recover-ok, nack
        (60, 11 | 111) => &[],
        (60, 21 | 31) => &[Short("consumer tag")],
        (60, 30) => &[Short("consumer tag"), Fixed(1)],
        RETURN => &[Fixed(2), Short("reply text"), Short("exchange"), Short("routing key")],
        DELIVER => &[Short("consumer tag"), Fixed(9), Short("exchange"), Short("routing key")],
        GET_OK => &[Fixed(9), Short("exchange"), Short("routing key"), Fixed(4)],
        (60, 72) => &[Short("cluster id")],
        (60, 80 | 120) => &[Fixed(9)],
        // confirm.select-ok; tx: select-ok, commit-ok, rollback-ok
        (85, 11) | (90, 11 | 21 | 31) => &[],
        _ => return None,
    })
}
