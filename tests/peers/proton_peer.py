"""An AMQP 1.0 peer that shares no code with the crate: a Qpid Proton listener that answers as it is told.

    proton_peer.py [--port 0] [--tls-cert F --tls-key F --tls-ca F --require-client-cert]
                   [--sasl "EXTERNAL ANONYMOUS" | --no-sasl] [--idle-timeout SECONDS]

The first line on stdout is {"port": N}; then one JSON line an event: open, attach, message, settled (by the
other side first), detach, end, close, disconnected, transport_error.

The answer to a message is its application property `peer`, else the last dotted part of the target address:
    accept   (default; any other word too)
    reject   rejected, amqp:precondition-failed
    release  released
    modify   modified, delivery-failed
    hang     never answered
    cut      the link is closed with an error, the message unsettled
    end      the session is ended with an error, the message unsettled
    drop     the TCP connection is shut, the message unsettled; what was answered before is flushed first
    refuse   (address only) the attach is refused, amqp:unauthorized-access
With `_after_N`, as in drop_after_10, the first N messages of the link are accepted.

It ends on SIGTERM, or when stdin reaches its end, so that it dies with the test that started it.
Times are proton's: ttl, creation_time and idle_timeout in seconds; of --idle-timeout proton announces half.
"""

import argparse
import base64
import json
import os
import re
import socket
import sys
import threading

from proton import Condition, Delivery, Endpoint, Link, SSLDomain
from proton.handlers import MessagingHandler
from proton.reactor import Container

CREDIT = 1000
ANSWER = re.compile(r"(accept|reject|release|modify|hang|cut|end|drop)(?:_after_(\d+))?")


def say(record):
    print(json.dumps(record, default=str), flush=True)


def message_record(message, address):
    """A message as the JSON lines of proton_peer.py and receive.py show it."""
    body, body_type = message.body, type(message.body).__name__
    if isinstance(body, (bytes, memoryview)):
        body = base64.b64encode(bytes(body)).decode()
    properties = message.properties or {}
    return {
        "event": "message",
        "address": address,
        "to": message.address,
        "id": message.id,
        "content_type": symbol_or_none(message.content_type),
        "content_encoding": symbol_or_none(message.content_encoding),
        "subject": message.subject,
        "creation_time": message.creation_time,
        "durable": message.durable,
        "priority": message.priority,
        "ttl": message.ttl,
        "delivery_count": message.delivery_count,
        "properties": properties,
        "property_types": {key: type(value).__name__ for key, value in properties.items()},
        "annotations": message.annotations,
        "body": body,
        "body_type": body_type,
        # True for a data (or sequence) section, False for an amqp-value.
        "inferred": message.inferred,
    }


def symbol_or_none(value):
    """Proton shows an absent symbol as the symbol "None"."""
    return None if value in (None, "", "None") else str(value)


def answer_to(message, address):
    """The answer asked for, and how many messages of the link are accepted before it."""
    wanted = (message.properties or {}).get("peer") or (address or "").rsplit(".", 1)[-1]
    found = ANSWER.fullmatch(str(wanted))
    return (found[1], int(found[2] or 0)) if found else ("accept", 0)


def error_of(endpoint):
    condition = endpoint.remote_condition
    return condition and {"name": condition.name, "description": condition.description}


class Peer(MessagingHandler):
    def __init__(self, args):
        super().__init__(prefetch=0, auto_accept=False, peer_close_is_error=False)
        self.args = args
        self.seen = {}

    def on_start(self, event):
        acceptor = event.container.acceptor("127.0.0.1", self.args.port)
        if self.args.tls_cert:
            acceptor.set_ssl_domain(server_domain(self.args))
        say({"port": acceptor._selectable._delegate.getsockname()[1]})

    def on_connection_bound(self, event):
        transport = event.transport
        event.connection.container = "proton-peer"
        if self.args.idle_timeout:
            transport.idle_timeout = self.args.idle_timeout
        if not self.args.no_sasl:
            transport.sasl().allowed_mechs(self.args.sasl)
            transport.require_auth(True)

    def on_connection_remote_open(self, event):
        connection, transport = event.connection, event.transport
        say({
            "event": "open",
            "container_id": connection.remote_container,
            "hostname": connection.remote_hostname,
            "idle_timeout": transport.remote_idle_timeout or None,
            "max_frame_size": transport.remote_max_frame_size,
            "sasl_mech": None if self.args.no_sasl else transport.sasl().mech,
            "user": transport.user,
            "properties": connection.remote_properties,
        })

    def on_link_remote_open(self, event):
        link = event.link
        address = link.remote_target.address if link.is_receiver else link.remote_source.address
        say({
            "event": "attach",
            "address": address,
            "name": link.name,
            "role": "sender" if link.is_receiver else "receiver",
            "snd_settle_mode": {Link.SND_UNSETTLED: "unsettled", Link.SND_SETTLED: "settled",
                                Link.SND_MIXED: "mixed"}[link.remote_snd_settle_mode],
        })
        if (address or "").rsplit(".", 1)[-1] == "refuse":
            # Answered as the standard asks: an attach with a null target, then a detach with the reason.
            link.open()
            link.condition = Condition("amqp:unauthorized-access", f"not allowed to write to {address}")
            link.close()
            return
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.open()
        if link.is_receiver:
            link.flow(CREDIT)

    def on_message(self, event):
        link, delivery, message = event.link, event.delivery, event.message
        address = link.remote_target.address
        key = (event.connection.remote_container, link.name)
        self.seen[key] = self.seen.get(key, 0) + 1
        answer, accepted_before = answer_to(message, address)
        if self.seen[key] <= accepted_before:
            answer = "accept"
        outcome = {"accept": "accepted", "reject": "rejected", "release": "released", "modify": "modified"}
        say({**message_record(message, address), "presettled": delivery.settled,
             "outcome": outcome.get(answer, answer)})
        if link.credit < CREDIT // 2:
            link.flow(CREDIT - link.credit)
        if answer == "accept":
            settle(delivery, Delivery.ACCEPTED)
        elif answer == "reject":
            delivery.local.condition = Condition("amqp:precondition-failed", "rejected by the test peer")
            settle(delivery, Delivery.REJECTED)
        elif answer == "release":
            settle(delivery, Delivery.RELEASED)
        elif answer == "modify":
            delivery.local.failed = True
            settle(delivery, Delivery.MODIFIED)
        elif answer in ("cut", "end"):
            endpoint = link if answer == "cut" else link.session
            endpoint.condition = Condition("amqp:internal-error", f"{answer} by the test peer")
            endpoint.close()
        elif answer == "drop":
            drop(event.transport)

    def on_settled(self, event):
        say({"event": "settled", "address": event.link.remote_target.address})

    def on_link_remote_close(self, event):
        self.detached(event, closed=True)

    def on_link_remote_detach(self, event):
        self.detached(event, closed=False)

    def detached(self, event, closed):
        link = event.link
        self.seen.pop((event.connection.remote_container, link.name), None)
        say({"event": "detach", "name": link.name, "closed": closed, "error": error_of(link)})
        if not closed and not link.state & Endpoint.LOCAL_CLOSED:
            link.detach()

    def on_link_error(self, event):
        """Proton's own answer to a detach with an error is to close the connection."""

    def on_session_error(self, event):
        """As on_link_error."""

    def on_session_remote_close(self, event):
        say({"event": "end", "error": error_of(event.session)})

    def on_connection_remote_close(self, event):
        say({"event": "close", "container_id": event.connection.remote_container,
             "error": error_of(event.connection)})

    def on_transport_error(self, event):
        condition = event.transport.condition
        say({"event": "transport_error", "name": condition and condition.name,
             "description": condition and condition.description})

    def on_transport_closed(self, event):
        connection = event.connection
        container = connection and connection.remote_container
        self.seen = {key: seen for key, seen in self.seen.items() if key[0] != container}
        say({"event": "disconnected", "container_id": container})


def settle(delivery, outcome):
    delivery.update(outcome)
    delivery.settle()


def drop(transport):
    """Shuts the socket, after the answers given so far are written to it."""
    sock = transport._selectable._delegate
    try:
        while (pending := transport.pending()) > 0:
            transport.pop(sock.send(transport.peek(pending)))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was quicker


def server_domain(args):
    domain = SSLDomain(SSLDomain.MODE_SERVER)
    domain.set_credentials(args.tls_cert, args.tls_key, None)
    if args.tls_ca:
        domain.set_trusted_ca_db(args.tls_ca)
    if args.require_client_cert:
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER, args.tls_ca)
    else:
        domain.set_peer_authentication(SSLDomain.ANONYMOUS_PEER)
    return domain


def die_with_parent():
    while os.read(0, 4096):
        pass
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    parser.add_argument("--tls-ca")
    parser.add_argument("--require-client-cert", action="store_true")
    parser.add_argument("--sasl", default="EXTERNAL ANONYMOUS", help="mechanisms offered")
    parser.add_argument("--no-sasl", action="store_true", help="take clients that use no SASL layer")
    parser.add_argument("--idle-timeout", type=float, help="seconds, announced and enforced")
    args = parser.parse_args()
    threading.Thread(target=die_with_parent, daemon=True).start()
    Container(Peer(args)).run()


if __name__ == "__main__":
    sys.exit(main())
