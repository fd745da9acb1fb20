"""The real consumer: `fedora-messaging consume`, with a callback that prints what it got.

    fedora_consume.py URL KEY [--count N] [--timeout S] [--exchange E] [--queue NAME] [--prefetch N]
                      [--ca F] [--cert F --key F]

The first line is {"ready": true}, once it consumes; then one JSON line a message that passed its validation:
    {"event": "message", "topic": .., "id": .., "body": {..}, "headers": {..}, "severity": 20, "class": "Message",
     "properties": {"content_type": .., "content_encoding": .., "delivery_mode": 2, "priority": .., ..}}
with the log lines of fedora_cli.py between. A message without a content_encoding is shown with the one the
consumer took instead.

Its queue is its own and ends with it; --queue takes the durable queue NAME, as `rabbit.py declare` makes it.
It ends after N messages or after S seconds (10; 0 is no limit) without one, with the exit status of the command
line; with {"error": ..} and status 1 if it did not consume in that time; and on SIGTERM and at the end of stdin.
"""

import os
import sys
import threading
import time
import uuid

from fedora_cli import die_with_parent, parser, queue, ready, run, say

PROPERTIES = (
    "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to", "expiration",
    "message_id", "timestamp", "type", "user_id", "app_id",
)  # fmt: skip


class Callback:
    """Named in the configuration as fedora_consume:Callback and made by the consumer."""

    def __init__(self):
        from fedora_messaging.config import conf

        self.latest = time.monotonic()
        self.left = conf["consumer_config"]["count"]
        threading.Thread(target=self.watch, args=[conf["consumer_config"]["timeout"]], daemon=True).start()

    def __call__(self, message):
        from fedora_messaging.exceptions import HaltConsumer

        self.latest = time.monotonic()
        properties = message._properties
        say({
            "event": "message",
            "topic": message.topic,
            "id": message.id,
            "body": message.body,
            "headers": properties.headers,
            "severity": message.severity,
            "class": type(message).__name__,
            "properties": {name: getattr(properties, name) for name in PROPERTIES},
        })
        self.left -= 1
        if self.left == 0:
            raise HaltConsumer()

    def watch(self, timeout):
        while timeout and (left := self.latest + timeout - time.monotonic()) > 0:
            time.sleep(left)
        if timeout and not ready.is_set():
            say({"error": f"it does not consume after {timeout} s"})
            os._exit(1)
        if timeout:
            os._exit(0)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("key")
    arguments.add_argument("--count", type=int, default=0, help="0: no limit")
    arguments.add_argument("--timeout", type=float, default=10)
    arguments.add_argument("--queue")
    arguments.add_argument("--prefetch", type=int, default=10)
    args = arguments.parse_args()
    die_with_parent()
    return run(
        args,
        ["consume"],
        **queue(args.queue or f"consume-{uuid.uuid4()}", args.exchange, args.key, durable=bool(args.queue)),
        callback="fedora_consume:Callback",
        consumer_config={"count": args.count, "timeout": args.timeout},
        qos={"prefetch_count": args.prefetch, "prefetch_size": 0},
    )


if __name__ == "__main__":
    sys.exit(main())
