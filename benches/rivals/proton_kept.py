"""Bench rival: Proton with one kept connection, its BlockingConnection: each send waits for `accepted`.

    proton_kept.py URL ADDRESS N [CERT CA] [--durable]

CERT (one PEM with certificate and key) and CA for amqps URLs. rhmsg sends transient messages; --durable asks
the broker to keep them, for a comparison with a client that does.
Prints {"messages": N, "seconds": S, "per_second": R}; connecting is not counted.
"""

import json
import sys
import time

from proton import Delivery, Message
from proton.utils import BlockingConnection

from rhmsg_style import client_domain


def main(url, address, count, cert=None, ca=None, durable=False):
    body = json.dumps({"id": 0, "text": ""})
    body = json.dumps({"id": 0, "text": "x" * (300 - len(body))})
    connection = BlockingConnection(url, timeout=60, ssl_domain=client_domain(cert, ca) if cert else None)
    sender = connection.create_sender(address)
    started = time.monotonic()
    for _ in range(int(count)):
        delivery = sender.send(Message(body=body, properties={"key": "value"}, durable=durable))
        if delivery.remote_state != Delivery.ACCEPTED:
            sys.exit(f"not accepted by {url}")
    seconds = time.monotonic() - started
    connection.close()
    print(json.dumps({
        "messages": int(count), "seconds": round(seconds, 3), "per_second": round(int(count) / seconds, 1)}))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--durable"]
    if len(arguments) not in (3, 5):
        sys.exit(__doc__)
    main(*arguments, durable="--durable" in sys.argv)
