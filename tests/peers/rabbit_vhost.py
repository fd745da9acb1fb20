"""A virtual host of RabbitMQ, by its management interface.

    rabbit_vhost.py URL create VHOST      a new one, which guest may use
    rabbit_vhost.py URL describe VHOST    one JSON line: its exchanges, queues with arguments, and bindings
    rabbit_vhost.py URL delete VHOST

URL: http://127.0.0.1:PORT
"""

import base64
import json
import sys
import urllib.request
from urllib.parse import quote


def call(url, method, path, body=None):
    request = urllib.request.Request(f"{url}/api/{path}", method=method)
    request.add_header("authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    request.add_header("content-type", "application/json")
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(request, data, timeout=20) as response:
        text = response.read()
    return json.loads(text) if text else None


def create(url, vhost):
    call(url, "PUT", f"vhosts/{vhost}", {})
    call(url, "PUT", f"permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})


def delete(url, vhost):
    call(url, "DELETE", f"vhosts/{vhost}")


def arguments(queue):
    """RabbitMQ 4 lists the default type as if it had been declared."""
    return {key: value for key, value in queue["arguments"].items() if (key, value) != ("x-queue-type", "classic")}


def describe(url, vhost):
    exchanges = [
        [exchange["name"], exchange["type"], exchange["durable"], exchange["arguments"]]
        for exchange in call(url, "GET", f"exchanges/{vhost}")
        if exchange["name"] and not exchange["name"].startswith("amq.")
    ]
    queues = [
        [queue["name"], queue["durable"], arguments(queue)]
        for queue in call(url, "GET", f"queues/{vhost}?disable_stats=true&enable_queue_totals=true")
    ]
    bindings = [
        [binding["source"], binding["destination"], binding["routing_key"]]
        for binding in call(url, "GET", f"bindings/{vhost}")
        if binding["source"]
    ]
    print(json.dumps({"exchanges": sorted(exchanges), "queues": sorted(queues), "bindings": sorted(bindings)}))


COMMANDS = {"create": create, "describe": describe, "delete": delete}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[2] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[2]](sys.argv[1], quote(sys.argv[3], safe=""))
