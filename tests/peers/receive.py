"""A consumer as the users of such a bus have it: Qpid Proton, json.loads(message.body), accept.

    receive.py URL ADDRESS [--count N] [--timeout S] [--cert F --ca F] [--sasl MECHANISMS]

It prints {"ready": true} once the link is attached and credit is given, then one JSON line a message in the
shape of proton_peer.py, with "json" (the body parsed as consumers parse it) or "json_error". It ends after N
messages, or after S seconds (default 10) without one; {"error": ..} and exit status 1 if the broker refuses.

ADDRESS: Consumer.NAME.VirtualTopic.eng.> or topic://T at ActiveMQ; /exchange/amq.topic/KEY or /amq/queue/NAME
at RabbitMQ.
"""

import argparse
import json
import sys

from proton import SSLDomain
from proton.handlers import MessagingHandler
from proton.reactor import Container

from proton_peer import message_record, say


class Receive(MessagingHandler):
    def __init__(self, args):
        super().__init__(prefetch=500)
        self.args = args
        self.received = 0
        self.seen_at_last_look = 0
        self.failed = False

    def on_start(self, event):
        options = {"allow_insecure_mechs": True, "reconnect": False}
        if self.args.sasl:
            options["allowed_mechs"] = self.args.sasl
        if self.args.url.startswith("amqps:"):
            options["ssl_domain"] = client_domain(self.args.cert, self.args.ca)
        self.connection = event.container.connect(self.args.url, **options)
        event.container.create_receiver(self.connection, self.args.address)
        self.container = event.container
        self.look = event.container.schedule(self.args.timeout, self)

    def on_link_opened(self, event):
        if event.link.remote_source.address is not None:
            say({"ready": True})

    def on_message(self, event):
        record = message_record(event.message, event.link.remote_source.address)
        try:
            record["json"] = json.loads(event.message.body)
        except Exception as error:
            record["json_error"] = f"{type(error).__name__}: {error}"
        record["outcome"] = "accepted"
        say(record)
        self.received += 1
        if self.received == self.args.count:
            self.finish()

    def on_timer_task(self, event):
        if self.received == self.seen_at_last_look:
            self.finish()
        else:
            self.seen_at_last_look = self.received
            self.look = self.container.schedule(self.args.timeout, self)

    def on_link_error(self, event):
        self.fail(event, event.link.remote_condition)

    def on_session_error(self, event):
        self.fail(event, event.session.remote_condition)

    def on_connection_error(self, event):
        self.fail(event, event.connection.remote_condition)

    def on_transport_error(self, event):
        self.fail(event, event.transport.condition)

    def on_disconnected(self, event):
        self.look.cancel()

    def fail(self, event, condition):
        if not self.failed:
            say({"error": condition and condition.name, "description": condition and condition.description})
        self.failed = True
        self.finish()

    def finish(self):
        self.look.cancel()
        self.connection.close()


def client_domain(cert, ca):
    """Mutual TLS; `cert` is one PEM with certificate and key."""
    domain = SSLDomain(SSLDomain.MODE_CLIENT)
    if cert:
        domain.set_credentials(cert, cert, None)
    if ca:
        domain.set_trusted_ca_db(ca)
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME, ca)
    return domain


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=0, help="0: no limit")
    parser.add_argument("--timeout", type=float, default=10)
    parser.add_argument("--cert")
    parser.add_argument("--ca")
    parser.add_argument("--sasl", help="allow only these mechanisms")
    receive = Receive(parser.parse_args())
    Container(receive).run()
    return 1 if receive.failed else 0


if __name__ == "__main__":
    sys.exit(main())
