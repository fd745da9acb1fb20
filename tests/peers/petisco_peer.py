"""The real petisco, as the service "registration" of "acme".

    petisco_peer.py URL configure [TTL]       declares all it needs; queues keep messages for TTL ms (5000)
    petisco_peer.py URL publish [COUNT]       publishes COUNT (1) events, and prints each as it is on the wire
    petisco_peer.py URL dispatch              the same for one command
    petisco_peer.py URL consume RETRIES FAIL [hold]   prints what it gets until stdin ends; fails the first FAIL
                                              handlings, and with "hold" never ends the next

URL: amqp://127.0.0.1:PORT/VHOST
"""

import json
import os
import sys
import threading
import time
from urllib.parse import unquote, urlsplit

if len(sys.argv) < 3:
    sys.exit(__doc__)
address = urlsplit(sys.argv[1])
os.environ |= {"RABBITMQ_HOST": address.hostname, "RABBITMQ_PORT": str(address.port)}

from pika.connection import Parameters  # noqa: E402

# It knows no virtual hosts.
Parameters.DEFAULT_VIRTUAL_HOST = unquote(address.path[1:])

from meiga import isFailure, isSuccess  # noqa: E402
from petisco import (  # noqa: E402
    AllMessageSubscriber,
    Command,
    CommandSubscriber,
    DomainEvent,
    DomainEventSubscriber,
)
from petisco.extra.rabbitmq import (  # noqa: E402
    QueueConfig,
    RabbitMqCommandBus,
    RabbitMqConnector,
    RabbitMqDomainEventBus,
    RabbitMqMessageConfigurer,
    RabbitMqMessageConsumer,
)

SERVICE = ("acme", "registration")
failures = 0
holds = False
started = time.monotonic()


class UserCreated(DomainEvent):
    pass


class PersistUser(Command):
    pass


def say(record):
    print(json.dumps(record, default=str), flush=True)


def handle(by, message):
    global failures
    failed = failures > 0
    failures -= failed
    say(
        {
            "event": "message",
            "by": by,
            "at": time.monotonic() - started,
            "failed": failed,
            "id": message.get_message_id(),
            "name": message.get_message_name(),
            "version": message.get_message_version(),
            "occurred_on": message.get_message_occurred_on(),
            "attributes": message.get_message_attributes(),
            "meta": message.get_message_meta(),
            "type": message.get_message_type(),
        }
    )
    if holds and not failed:
        threading.Event().wait()
    return isFailure if failed else isSuccess


class SendMailOnUserCreated(DomainEventSubscriber):
    def subscribed_to(self):
        return [UserCreated]

    def handle(self, domain_event):
        return handle("mail", domain_event)


class PersistUserHandler(CommandSubscriber):
    def subscribed_to(self):
        return PersistUser

    def handle(self, command):
        return handle("persist", command)


class StoreAll(AllMessageSubscriber):
    def subscribed_to(self):
        return super().subscribed_to()

    def handle(self, message):
        return handle("store", message)


def configure(ttl="5000"):
    config = QueueConfig.default(int(ttl), int(ttl))
    configurer = RabbitMqMessageConfigurer(*SERVICE, queue_config=config)
    configurer.configure_subscribers([SendMailOnUserCreated, PersistUserHandler, StoreAll])
    say({"configured": True})


def publish(count="1"):
    bus = RabbitMqDomainEventBus(*SERVICE).with_meta({"correlation_id": "abc"})
    for n in range(int(count)):
        event = UserCreated(n=n, name="größe ☃")
        bus.publish(event)
        say(event.format())


def dispatch():
    command = PersistUser(n=0)
    RabbitMqCommandBus(*SERVICE).dispatch(command)
    say(command.format())


def consume(retries, fail, hold=""):
    global failures, holds
    failures, holds = int(fail), hold == "hold"
    consumer = RabbitMqMessageConsumer(*SERVICE, int(retries))
    consumer.add_subscribers([SendMailOnUserCreated, PersistUserHandler])
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    consumer.start()
    say({"event": "ready"})
    threading.Event().wait()


COMMANDS = {"configure": configure, "publish": publish, "dispatch": dispatch, "consume": consume}

if __name__ == "__main__":
    if sys.argv[2] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[2]](*sys.argv[3:])
    RabbitMqConnector().close_all()
