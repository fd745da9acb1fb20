"""Bench rival: fedora_messaging.api.publish in a loop, as its users have it: each call makes a message and
returns after the broker's confirm.

    fedora_publish.py URL TOPIC N [CERT CA]

CERT (one PEM with certificate and key) and CA for amqps URLs. The library sends to amq.topic and asks the broker
to keep each message. Prints {"messages": N, "seconds": S, "per_second": R}; connecting is not counted, so that
one message more than N is sent.
"""

import json
import os
import sys
import time

os.environ["FEDORA_MESSAGING_CONF"] = os.devnull

from fedora_messaging import api, config


def main(url, topic, count, cert=None, ca=None):
    config.conf.update({"amqp_url": url})
    if cert:
        config.conf.update({"tls": {"ca_cert": ca, "certfile": cert, "keyfile": cert}})
    body = {"id": 0, "text": ""}
    body["text"] = "x" * (300 - len(json.dumps(body)))
    api.publish(api.Message(topic=topic, body=body))
    started = time.monotonic()
    for _ in range(int(count)):
        api.publish(api.Message(topic=topic, body=body))
    seconds = time.monotonic() - started
    print(json.dumps({
        "messages": int(count), "seconds": round(seconds, 3), "per_second": round(int(count) / seconds, 1)}))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 6):
        sys.exit(__doc__)
    main(*sys.argv[1:])
