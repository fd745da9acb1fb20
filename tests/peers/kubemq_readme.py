"""Drives the unmodified SDK kubemq 2.4.0 through all that its documentation shows; prints a line of JSON for each step.

    kubemq_readme.py ADDRESS queue|transaction|events|requests
"""

import datetime
import json
import logging
import os
import sys
import threading
import time

from kubemq.commandquery.lowlevel.initiator import Initiator
from kubemq.commandquery.lowlevel.request import Request
from kubemq.commandquery.request_type import RequestType
from kubemq.commandquery.responder import Responder
from kubemq.commandquery.response import Response
from kubemq.events.lowlevel.event import Event
from kubemq.events.lowlevel.sender import Sender
from kubemq.events.subscriber import Subscriber
from kubemq.grpc import QueueMessagePolicy
from kubemq.queue.message import Message
from kubemq.queue.message_queue import MessageQueue
from kubemq.subscription.events_store_type import EventsStoreType
from kubemq.subscription.subscribe_request import SubscribeRequest
from kubemq.subscription.subscribe_type import SubscribeType

ADDRESS = sys.argv[1]
logging.disable(logging.CRITICAL)


class Token:
    """A token to end a subscription. The SDK asks it without a pause, so it makes one."""

    def __init__(self):
        self.event = threading.Event()

    @property
    def is_cancelled(self):
        return self.event.wait(0.05)

    def cancel(self):
        self.event.set()


def step(name, work):
    """Prints the result of a step, or its error, and how long it took."""
    begun = time.monotonic()
    try:
        result = work()
    except Exception as error:  # noqa: BLE001
        details = error.details() if hasattr(error, "details") else str(error)
        result = {"exception": details or type(error).__name__}
        if hasattr(error, "code") and callable(error.code):
            result["code"] = error.code().name
    print(json.dumps({"step": name, "result": result, "took": time.monotonic() - begun}), flush=True)
    return result


def until(done, seconds=5):
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)


def message(m):
    a = m.Attributes
    return {
        "body": m.Body.decode(), "metadata": m.Metadata, "id": m.MessageID, "client": m.ClientID, "queue": m.Channel,
        "tags": dict(m.Tags), "seq": a.Sequence, "count": a.ReceiveCount, "md5": a.MD5OfBody, "rerouted": a.ReRouted,
        "from": a.ReRoutedFromQueue, "expires": a.ExpirationAt > 0, "delayed": a.DelayedTo,
        "max": m.Policy.MaxReceiveCount,
    }


def sent(r):
    return {
        "id": r.message_id, "error": r.error if r.is_error else "", "sent": r.sent_at > 0,
        "expires": round((r.expiration_at - r.sent_at) / 1e9) if r.expiration_at else 0,
        "delayed": round((r.delayed_to - r.sent_at) / 1e9) if r.delayed_to else 0,
    }


def received(r):
    return {
        "error": r.error if r.is_error else "", "messages": [message(m) for m in r.messages], "peek": r.is_peek,
        "expired": r.messages_expired, "received": r.messages_received,
    }


def of(name, **more):
    more.setdefault("wait_time_seconds_queue_messages", 1)
    return MessageQueue(name, "client", ADDRESS, **more)


def text(body, **more):
    return Message(metadata="metadata", body=body.encode(), tags={"key": "value", "key2": "value2"}, **more)


def queue():
    q = of("queue")
    step("ping", lambda: {"host": bool(q.ping().Host), "start": q.ping().ServerStartTime > 0})
    step("send", lambda: sent(q.send_queue_message(text("x"))))

    def batch():
        r = q.send_queue_messages_batch([text(f"b{i}") for i in range(2)])
        return {"errors": r.have_errors, "results": len(r.result)}

    step("batch", batch)
    step("peek", lambda: received(q.peek_queue_message()))
    step("peek 2", lambda: received(q.peek_queue_message(2)))
    step("receive 2", lambda: received(q.receive_queue_messages(2)))
    step("receive rest", lambda: received(q.receive_queue_messages()))
    step("receive empty", lambda: received(q.receive_queue_messages()))
    for i in range(5):
        q.send_queue_message(text(f"a{i}"))

    def ack_all():
        r = of("queue", wait_time_seconds_queue_messages=2).ack_all_queue_messages()
        return {"error": r.error if r.is_error else "", "affected": r.affected_messages or 0}

    step("ack all", ack_all)
    step("ack all again", ack_all)
    e = of("expiry")
    step("send expiring", lambda: sent(e.send_queue_message(text("gone", policy=QueueMessagePolicy(ExpirationSeconds=1)))))
    e.send_queue_message(text("keeps"))
    time.sleep(1.2)
    step("receive expired", lambda: received(e.receive_queue_messages(1)))
    d = of("delay")
    step("send delayed", lambda: sent(d.send_queue_message(text("delayed", policy=QueueMessagePolicy(DelaySeconds=2)))))
    step("receive early", lambda: received(d.receive_queue_messages(1)))
    step("receive later", lambda: received(of("delay", wait_time_seconds_queue_messages=3).receive_queue_messages(1)))
    step("expires too late", lambda: sent(q.send_queue_message(text("x", policy=QueueMessagePolicy(ExpirationSeconds=43201)))))
    step("delayed too long", lambda: sent(q.send_queue_message(text("x", policy=QueueMessagePolicy(DelaySeconds=43201)))))
    step("received too often", lambda: sent(q.send_queue_message(text("x", policy=QueueMessagePolicy(MaxReceiveCount=1025)))))
    step("empty message", lambda: sent(q.send_queue_message(Message(body=b"", metadata=""))))
    step("bad name", lambda: sent(of("a.*").send_queue_message(text("x"))))
    step("receive 0", lambda: received(q.receive_queue_messages(0)))
    step("receive 1025", lambda: received(q.receive_queue_messages(1025)))
    step("wait too long", lambda: received(of("queue", wait_time_seconds_queue_messages=3601).receive_queue_messages(1)))

    def poll():
        late = of("late", wait_time_seconds_queue_messages=5)
        timer = threading.Timer(0.5, lambda: of("late").send_queue_message(text("late")))
        timer.start()
        return received(late.receive_queue_messages(32))

    step("long poll", poll)


def answer(r):
    result = {"error": r.error if r.is_error else "", "type": r.stream_request_type}
    if r.message is not None and r.message.Channel:
        result["message"] = message(r.message)
    return result


def transaction():
    q = of("tx")
    q.send_queue_message(text("one"))
    q.send_queue_message(text("two"))
    tx = q.create_transaction()
    first = step("receive", lambda: answer(tx.receive(10, 5)))
    step("receive again", lambda: answer(tx.receive(10, 5)))
    step("ack 0", lambda: answer(tx.ack_message(0)))
    step("ack", lambda: answer(tx.ack_message(first["message"]["seq"])))
    until(lambda: not tx.stream)
    second = step("receive two", lambda: answer(tx.receive(10, 5)))
    step("reject", lambda: answer(tx.rejected_message(second["message"]["seq"])))
    until(lambda: not tx.stream)
    third = step("receive rejected", lambda: answer(tx.receive(10, 5)))
    tx.ack_message(third["message"]["seq"])
    until(lambda: not tx.stream)
    step("receive empty", lambda: answer(tx.receive(10, 1)))

    v = of("visible")
    v.send_queue_message(text("vis"))
    held = v.create_transaction()
    one = step("receive visible", lambda: answer(held.receive(1, 5)))
    held.extend_visibility(5)
    step("other consumer", lambda: received(of("visible").receive_queue_messages(1)))
    step("extend", lambda: answer(held.extend_visibility(5)))
    time.sleep(1.2)
    step("ack extended", lambda: answer(held.ack_message(one["message"]["seq"])))
    v.send_queue_message(text("vis2"))
    until(lambda: not held.stream)
    two = step("receive short", lambda: answer(held.receive(1, 5)))
    time.sleep(1.2)
    step("ack too late", lambda: answer(held.ack_message(two["message"]["seq"])))
    step("redelivered", lambda: received(of("visible").receive_queue_messages(1)))

    g = of("gone")
    g.send_queue_message(text("dc"))
    leaving = g.create_transaction()
    leaving.receive(10, 5)
    leaving.close_stream()
    step("after disconnect", lambda: received(of("gone").receive_queue_messages(1)))

    r = of("resend")
    r.send_queue_message(text("rs"))
    moving = r.create_transaction()
    step("receive to resend", lambda: answer(moving.receive(10, 5)))
    step("resend", lambda: answer(moving.resend("resent")))
    step("resent", lambda: received(of("resent").receive_queue_messages(1)))

    m = of("modify")
    m.send_queue_message(text("md"))
    changing = m.create_transaction()
    got = changing.receive(10, 5)

    def modify():
        changed = got.message
        changed.Metadata = "new metadata"
        changed.Channel = "modified"
        return answer(changing.modify(changed))

    step("modify", modify)
    step("modified", lambda: received(of("modified").receive_queue_messages(1)))
    step("left", lambda: received(of("modify").peek_queue_message(1)))

    d = of("dl")
    policy = QueueMessagePolicy(MaxReceiveCount=3, MaxReceiveQueue="dlq")
    step("send to die", lambda: sent(d.send_queue_message(text("dl", policy=policy))))
    dying = d.create_transaction()
    for attempt in range(1, 5):
        got = step(f"try {attempt}", lambda: answer(dying.receive(10, 1)))
        if "message" in got:
            step(f"reject {attempt}", lambda: answer(dying.rejected_message(got["message"]["seq"])))
        until(lambda: not dying.stream)
    step("dead letter", lambda: received(of("dlq").receive_queue_messages(1)))

    o = of("order")
    for i in range(3):
        o.send_queue_message(text(str(i)))
    ordered = o.create_transaction()
    head = ordered.receive(10, 5)
    ordered.rejected_message(head.message.Attributes.Sequence)
    step("order after reject", lambda: received(o.receive_queue_messages(3)))

    two = of("two")
    two.send_queue_message(text("0"))
    two.send_queue_message(text("1"))
    consumers = [of("two").create_transaction() for _ in range(2)]
    for index, consumer in enumerate(consumers):
        step(f"consumer {index}", lambda consumer=consumer: answer(consumer.receive(10, 5)))
    for consumer in consumers:
        consumer.close_stream()


class Listener:
    """A subscription and what it got."""

    def __init__(self, channel, kind=SubscribeType.Events, store=None, value=None, group="", client=None):
        self.got, self.errors, self.token = [], [], Token()
        request = SubscribeRequest(kind, client, channel, store, value, group)
        Subscriber(ADDRESS).subscribe_to_events(request, self.got.append, self.errors.append, self.token)

    def bodies(self):
        return [event.body.decode() for event in self.got]

    def sequences(self):
        return [event.sequence for event in self.got]


def emit(channel, body, store=False, client="sender"):
    event = Event(channel=channel, client_id=client, store=store, body=body.encode(), metadata="metadata", event_id=None)
    r = Sender(ADDRESS).send_event(event)
    return {"id": bool(r.event_id), "sent": r.sent, "error": r.error}


def events():
    step("send without subscribers", lambda: emit("nobody", "x"))
    alone, a, b = Listener("ev.x"), Listener("ev.x", group="g"), Listener("ev.x", group="g")
    rest, word, quiet = Listener("ev.>"), Listener("ev.*"), Listener("other")
    time.sleep(0.3)
    for i in range(10):
        emit("ev.x", str(i))
    until(lambda: len(alone.got) == len(rest.got) == len(word.got) == 10 and len(a.got) + len(b.got) == 10)
    step("delivered", lambda: {
        "alone": alone.bodies(), "group": len(a.got) + len(b.got), "rest": len(rest.got), "word": len(word.got),
        "quiet": len(quiet.got), "sequence": alone.got[0].sequence, "metadata": alone.got[0].metadata,
    })
    for listener in [alone, a, b, rest, word, quiet]:
        listener.token.cancel()
    step("bad channel", lambda: emit("a.*", "x"))
    step("empty event", lambda: Sender(ADDRESS).send_event(Event(channel="a", client_id="c", body=b"", metadata="")))

    def stream(store):
        results = []
        Sender(ADDRESS).stream_event(
            iter([Event(channel="st", client_id="c", store=store, body=str(i).encode(), metadata="m") for i in range(3)]),
            lambda r: results.append(r.sent))
        return results

    step("stream of events", lambda: stream(False))
    step("stream of stored events", lambda: stream(True))

    for i in range(3):
        emit("store", str(i), True)
    time.sleep(2.5)
    for i in range(3, 6):
        if i == 3:
            third = time.time()
        emit("store", str(i), True)
    kind, store = SubscribeType.EventsStore, EventsStoreType
    starts = {
        "new": (store.StartNewOnly, 0), "first": (store.StartFromFirst, 0), "last": (store.StartFromLast, 0),
        "sequence": (store.StartAtSequence, 4), "nanoseconds": (store.StartAtTime, int(third * 1e9) - 1_000_000),
        "seconds": (store.StartAtTime, int(third)), "delta": (store.StartAtTimeDelta, 2),
    }
    listeners = {n: Listener("store", kind, s, v, client=f"start-{n}") for n, (s, v) in starts.items()}
    time.sleep(0.5)
    emit("store", "6", True)
    until(lambda: all("6" in listener.bodies() for listener in listeners.values()))
    for name, listener in listeners.items():
        step(f"start {name}", lambda listener=listener: {
            "bodies": listener.bodies(), "sequences": listener.sequences(), "errors": listener.errors})
        listener.token.cancel()

    one = Listener("durable", kind, store.StartFromFirst, 0, client="durable")
    time.sleep(0.3)
    emit("durable", "a", True)
    until(lambda: one.got)
    time.sleep(0.3)
    one.token.cancel()
    until(lambda: one.errors)
    time.sleep(0.3)
    emit("durable", "b", True)
    again = Listener("durable", kind, store.StartFromFirst, 0, client="durable")
    until(lambda: again.got)
    time.sleep(0.3)
    step("durable", lambda: {"first": one.bodies(), "again": again.bodies()})
    second = Listener("durable", kind, store.StartFromFirst, 0, client="durable")
    until(lambda: second.errors)
    step("in use", lambda: second.errors[0])
    again.token.cancel()

    members = [Listener("grouped", kind, store.StartFromFirst, 0, "g", f"member{i}") for i in range(2)]
    time.sleep(0.3)
    for i in range(8):
        emit("grouped", str(i), True)
    until(lambda: sum(len(member.got) for member in members) == 8)
    time.sleep(0.2)
    step("group", lambda: sorted(body for member in members for body in member.bodies()))
    for member in members:
        member.token.cancel()
    for name, listener in {
        "sequence 0": Listener("store", kind, store.StartAtSequence, 0, client="c1"),
        "wildcard": Listener("store.*", kind, store.StartFromFirst, 0, client="c2"),
    }.items():
        until(lambda listener=listener: listener.errors)
        step(f"refused {name}", lambda listener=listener: listener.errors[0])


def requests():
    calls = []

    def ask(channel, kind, timeout=1000, key=None, ttl=0):
        request = Request(
            request_type=kind, client_id="asker", channel=channel, metadata="ask", body=b"Request", timeout=timeout,
            cache_key=key, cache_ttl=ttl)
        r = Initiator(ADDRESS).send_request(request)
        return {
            "client": r.client_id, "metadata": r.metadata, "body": r.body.decode(), "executed": r.executed, "error": r.error,
            "hit": r.cache_hit, "reply": r.reply_channel,
        }

    def responder(channel, kind, group="", executed=True, error="None", pause=0.0, name="responder"):
        token, served = Token(), []

        def handler(request):
            calls.append(channel)
            served.append(request)
            time.sleep(pause)
            response = Response(request)
            response.client_id, response.body, response.metadata = name, b"OK-" + request.body, "meta"
            response.executed, response.error, response.cache_hit = executed, error, False
            response.timestamp = datetime.datetime.now()
            return response

        request = SubscribeRequest(kind, name, channel, None, None, group)
        Responder(ADDRESS).subscribe_to_requests(request, handler, lambda error: None, token)
        return token, served

    commands, queries = SubscribeType.Commands, SubscribeType.Queries
    step("no responder", lambda: ask("nobody", RequestType.Command))
    tokens = [responder("cmd", commands), responder("boom", commands, executed=False, error="boom"),
              responder("slow", commands, pause=0.8), responder("q", queries)]
    tokens += [responder("grouped", queries, "g", name=f"r{i}") for i in range(2)]
    time.sleep(0.5)
    step("command", lambda: ask("cmd", RequestType.Command))
    step("failed command", lambda: ask("boom", RequestType.Command))
    step("slow command", lambda: ask("slow", RequestType.Command, 300))
    step("query", lambda: ask("q", RequestType.Query))
    step("cached query", lambda: ask("q", RequestType.Query, key="key", ttl=10))
    step("cached again", lambda: ask("q", RequestType.Query, key="key", ttl=10))
    step("calls of q", lambda: calls.count("q"))
    step("key without ttl", lambda: ask("q", RequestType.Query, key="key"))
    step("timeout 0", lambda: ask("q", RequestType.Query, timeout=0))
    for _ in range(10):
        ask("grouped", RequestType.Query)
    step("group", lambda: calls.count("grouped"))
    step("seen", lambda: {
        "channel": tokens[0][1][0].channel, "body": tokens[0][1][0].body.decode(), "client": tokens[0][1][0].client_id,
        "reply": tokens[0][1][0].reply_channel.startswith("_INBOX."), "timeout": tokens[0][1][0].timeout,
    })
    for token, _ in tokens:
        token.cancel()


{"queue": queue, "transaction": transaction, "events": events, "requests": requests}[sys.argv[2]]()
sys.stdout.flush()
# Threads of the SDK may still wait for the server.
os._exit(0)
