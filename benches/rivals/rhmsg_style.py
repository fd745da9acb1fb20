"""Bench rival: sending as rhmsg does: for every message a Proton container, a connection, a link, one
transfer, `accepted`, close. rhmsg is not on PyPI; this is its producer's shape on the library it is built on.

    rhmsg_style.py URL ADDRESS N [CERT CA] [--durable]

CERT (one PEM with certificate and key) and CA for amqps URLs. rhmsg sends transient messages; --durable asks
the broker to keep them, for a comparison with a client that does.
Prints {"messages": N, "seconds": S, "per_second": R}.
"""

import json
import sys
import time

from proton import Message, SSLDomain
from proton.handlers import MessagingHandler
from proton.reactor import Container


class Send(MessagingHandler):
    """The handler of one rhmsg send: one link, what it was given, closed when all is settled."""

    def __init__(self, url, address, domain, message):
        super().__init__()
        self.url, self.address, self.domain, self.message = url, address, domain, message
        self.sent = self.accepted = False

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False, ssl_domain=self.domain)

    def on_connection_opened(self, event):
        event.container.create_sender(event.connection, target=self.address)

    def on_sendable(self, event):
        if not self.sent:
            self.sent = True
            event.sender.send(self.message)

    def on_accepted(self, event):
        self.accepted = True

    def on_settled(self, event):
        event.sender.close()
        event.connection.close()


def client_domain(cert, ca):
    domain = SSLDomain(SSLDomain.MODE_CLIENT)
    domain.set_credentials(cert, cert, None)
    domain.set_trusted_ca_db(ca)
    domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
    return domain


def main(url, address, count, cert=None, ca=None, durable=False):
    body = json.dumps({"id": 0, "text": ""})
    body = json.dumps({"id": 0, "text": "x" * (300 - len(body))})
    started = time.monotonic()
    for _ in range(int(count)):
        # A TLS configuration of its own too: rhmsg makes one for each send.
        domain = client_domain(cert, ca) if cert else None
        send = Send(url, address, domain, Message(body=body, properties={"key": "value"}, durable=durable))
        Container(send).run()
        if not send.accepted:
            sys.exit(f"not accepted by {url}")
    seconds = time.monotonic() - started
    print(json.dumps({
        "messages": int(count), "seconds": round(seconds, 3), "per_second": round(int(count) / seconds, 1)}))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--durable"]
    if len(arguments) not in (3, 5):
        sys.exit(__doc__)
    main(*arguments, durable="--durable" in sys.argv)
