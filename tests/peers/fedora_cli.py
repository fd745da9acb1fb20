"""What the fedora_*.py peers share: the real fedora-messaging command line, run in this process, with a
configuration of its own in place of /etc/fedora-messaging/config.toml, and JSON lines on stdout.

Each log record from WARNING up, of whatever logger, as its default configuration shows them, is a line
    {"event": "log", "level": "ERROR", "logger": "fedora_messaging.message", "text": ".."}
and {"ready": true} is one once a consumer is registered: its queue is then declared and bound. When the consumer
comes back after a lost connection the line is {"event": "ready"}.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
from importlib.metadata import entry_points

STDOUT = sys.stdout
REGISTERED = "Successfully registered AMQP consumer"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"lines": {"()": "fedora_cli.LogLines"}},
    "loggers": {"fedora_messaging": {"level": "INFO", "propagate": False, "handlers": ["lines"]}},
    "root": {"level": "WARNING", "handlers": ["lines"]},
}
writing = threading.Lock()
ready = threading.Event()


def say(record):
    line = json.dumps(record, default=str) + "\n"
    with writing:
        STDOUT.write(line)
        STDOUT.flush()


class LogLines(logging.Handler):
    def emit(self, record):
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            say({"event": "log", "level": record.levelname, "logger": record.name, "text": text})
        elif text.startswith(REGISTERED):
            say({"event": "ready"} if ready.is_set() else {"ready": True})
            ready.set()


def parser(description):
    """With the arguments all of them take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--exchange", default="amq.topic")
    parser.add_argument("--ca")
    parser.add_argument("--cert", help="with --key: SASL EXTERNAL; one PEM may be both")
    parser.add_argument("--key", dest="tls_key", metavar="KEY")
    return parser


def run(args, command, **settings):
    """Runs `fedora-messaging COMMAND..` to its end and gives its exit status. What it prints goes to stderr."""
    settings |= {
        "amqp_url": args.url,
        "publish_exchange": args.exchange,
        "client_properties": {"app": "tower-outbox tests"},
        "log_config": LOGGING,
    }
    if args.ca or args.cert:
        settings["tls"] = {"ca_cert": args.ca or "", "certfile": args.cert or "", "keyfile": args.tls_key or ""}
    # In memory: there is nothing to remove, however this process ends.
    file = os.memfd_create("config.toml")
    os.write(file, "".join(f"{key} = {toml(value)}\n" for key, value in settings.items()).encode())
    (fedora_messaging,) = entry_points(group="console_scripts", name="fedora-messaging")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            fedora_messaging.load()(["--conf", f"/proc/self/fd/{file}", *command], prog_name="fedora-messaging")
    except SystemExit as exit:
        return exit.code or 0
    return 0


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def die_with_parent():
    """Ends this process when stdin does."""

    def wait():
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def queue(name, exchange, key, durable=False):
    """The settings of a consumer: one queue with one binding."""
    properties = {"durable": durable, "auto_delete": not durable, "exclusive": not durable, "arguments": {}}
    return {
        "queues": {name: properties},
        "bindings": [{"queue": name, "exchange": exchange, "routing_keys": [key]}],
    }
