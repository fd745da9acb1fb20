"""RabbitMQ over AMQP 0-9-1 with pika: the queues a test looks into, and what came to them.

    rabbit.py URL declare QUEUE KEY [LIMIT]   a durable queue bound to amq.topic with KEY; full, it refuses
    rabbit.py URL drain QUEUE         one JSON line a message until it is empty; all are acknowledged
    rabbit.py URL publish EXCHANGE KEY BODY [HEADERS [PROPERTIES]]   a persistent message; both are JSON objects
    rabbit.py URL count QUEUE         how many messages are ready
    rabbit.py URL delete QUEUE
    rabbit.py URL garble QUEUE        puts a message into it that comes as undecodable bytes over AMQP 1.0

URL: amqp://[USER:PASSWORD@]127.0.0.1:PORT, guest by default.

What was sent over AMQP 1.0 with an amqp-value body RabbitMQ 3.10 hands on undecoded, as type "amqp-1.0"; drain
decodes it with proton: "body" is then the value, and "amqp" the whole message in the shape of proton_peer.py.

"header_types" of drain are the letters the values had on the wire: S string, I int32, l int64, t boolean, T time,
d double, V void, A array, F table, x bytes, and so on.
"""

import base64
import json
import struct
import sys

import pika
import pika.data


class Table(dict):
    """A table as pika decodes it, which also knows the type of each value."""

    def __init__(self):
        self.types = {}


def decode_table(encoded, offset):
    (size,) = struct.unpack_from(">I", encoded, offset)
    table, offset, end = Table(), offset + 4, offset + 4 + size
    while offset < end:
        key, offset = pika.data.decode_short_string(encoded, offset)
        table.types[key] = chr(encoded[offset])
        table[key], offset = pika.data.decode_value(encoded, offset)
    return table, offset


pika.data.decode_table = decode_table


def declare(channel, queue, key, limit=None):
    arguments = {"x-max-length": int(limit), "x-overflow": "reject-publish"} if limit else None
    channel.queue_declare(queue, durable=True, arguments=arguments)
    channel.queue_bind(queue, "amq.topic", key)


def publish(channel, exchange, key, body, headers="{}", properties="{}"):
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2, headers=json.loads(headers) or None, **json.loads(properties))
    channel.basic_publish(exchange, key, body.encode(), properties, mandatory=True)


def count(channel, queue):
    print(ready(channel, queue))


def delete(channel, queue):
    channel.queue_delete(queue)


def garble(channel, queue):
    # RabbitMQ 3.10 hands on a body of this type as sections that are encoded already.
    channel.basic_publish("", queue, b"\x00\x53\x75\xff", pika.BasicProperties(type="amqp-1.0", delivery_mode=2))


def drain(channel, queue):
    channel.basic_qos(prefetch_count=2000)
    left = ready(channel, queue)
    while left:
        # Until the messages counted are here, acknowledged a thousand at a time.
        for method, properties, body in channel.consume(queue, inactivity_timeout=2):
            if method is None:
                break
            print(json.dumps(record(method, properties, body), default=str))
            left -= 1
            if left == 0 or left % 1000 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if left == 0:
                break
        channel.cancel()
        left = ready(channel, queue)


def record(method, properties, body):
    shown = {
        "routing_key": method.routing_key,
        "message_id": properties.message_id,
        "headers": properties.headers or {},
        "header_types": properties.headers.types if properties.headers else {},
        "delivery_mode": properties.delivery_mode,
        "content_type": properties.content_type,
        "content_encoding": properties.content_encoding,
        "priority": properties.priority,
        "timestamp": properties.timestamp,
        "type": properties.type,
        "app_id": properties.app_id,
        "user_id": properties.user_id,
        "correlation_id": properties.correlation_id,
        "reply_to": properties.reply_to,
        "expiration": properties.expiration,
        "exchange": method.exchange,
        "redelivered": method.redelivered,
    }
    if properties.type == "amqp-1.0":
        shown["amqp"] = amqp_1_0(properties.headers or {}, body)
        shown["body"] = shown["amqp"]["body"]
        return shown
    try:
        shown["body"] = body.decode()
    except UnicodeDecodeError:
        shown["body_base64"] = base64.b64encode(body).decode()
    return shown


def amqp_1_0(headers, body):
    """The message put together again: RabbitMQ keeps its sections' bytes in headers and body."""
    from proton import Message

    from proton_peer import message_record

    sections = (headers.get(f"x-amqp-1.0-{name}", b"") for name in ("properties", "app-properties"))
    message = Message()
    message.decode(b"".join(part.encode() if isinstance(part, str) else part for part in sections) + body)
    return message_record(message, None)


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


COMMANDS = {
    "declare": (declare, 2, 3),
    "drain": (drain, 1, 1),
    "publish": (publish, 3, 5),
    "count": (count, 1, 1),
    "delete": (delete, 1, 1),
    "garble": (garble, 1, 1),
}


def main(argv):
    if len(argv) < 3 or argv[2] not in COMMANDS:
        sys.exit(__doc__)
    command, least, most = COMMANDS[argv[2]]
    if not least <= len(argv) - 3 <= most:
        sys.exit(__doc__)
    connection = pika.BlockingConnection(pika.URLParameters(argv[1]))
    try:
        command(connection.channel(), *argv[3:])
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv)
