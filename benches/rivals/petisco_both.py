"""Bench rival: petisco on both sides, each in a process of its own: one publishes events, the other handles them.

    petisco_both.py URL ORGANIZATION N

Its topology must be there, for the event bench.event and the subscriber CountBenchEvent of the service "bench".
Prints {"messages": N, "seconds": S}, from the first publish to the last message handled.
"""

import json
import os
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

if len(sys.argv) < 4:
    sys.exit(__doc__)
address = urlsplit(sys.argv[1])
os.environ |= {"RABBITMQ_HOST": address.hostname, "RABBITMQ_PORT": str(address.port)}

from meiga import isSuccess  # noqa: E402
from petisco import DomainEvent, DomainEventSubscriber  # noqa: E402
from petisco.extra.rabbitmq import (  # noqa: E402
    RabbitMqConnector,
    RabbitMqDomainEventBus,
    RabbitMqMessageConsumer,
)

SERVICE = (sys.argv[2], "bench")
COUNT = int(sys.argv[3])
handled = 0
done = threading.Event()


class BenchEvent(DomainEvent):
    pass


class CountBenchEvent(DomainEventSubscriber):
    def subscribed_to(self):
        return [BenchEvent]

    def handle(self, domain_event):
        global handled
        handled += 1
        if handled == COUNT:
            done.set()
        return isSuccess


def consume():
    consumer = RabbitMqMessageConsumer(*SERVICE, 5)
    consumer.add_subscribers([CountBenchEvent])
    consumer.start()
    print("ready", flush=True)
    done.wait()
    print("done", flush=True)
    os._exit(0)


def publish():
    with subprocess.Popen([sys.executable, *sys.argv, "consume"], stdout=subprocess.PIPE, text=True) as consumer:
        assert consumer.stdout.readline() == "ready\n"
        bus = RabbitMqDomainEventBus(*SERVICE)
        text = "x" * 250
        started = time.monotonic()
        for n in range(COUNT):
            bus.publish(BenchEvent(id=n, text=text))
        assert consumer.stdout.readline() == "done\n"
        print(json.dumps({"messages": COUNT, "seconds": time.monotonic() - started}))
    RabbitMqConnector().close_all()


if __name__ == "__main__":
    consume() if sys.argv[4:] == ["consume"] else publish()
