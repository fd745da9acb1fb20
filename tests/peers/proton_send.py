"""Sends what the crate itself would not: messages of every shape, by Qpid Proton.

    proton_send.py URL ADDRESS SHAPE

One JSON line when all are accepted. SHAPE:
    typed     one message with properties of every type, a uuid as its id
    bodies    one message each: two data sections, a binary, a map, a list, a sequence, a number, null
    undecodable  bytes that are no AMQP message, then a good one
    nested    three messages, of lists, maps and described values 5,000 deep in each other
    one_id    12 messages of one id, each with another body, then 8 that are the same, without an id
    to        one message with nothing but a body and the address it is sent to
"""

import json
import struct
import sys
import uuid

from proton import (Delivery, Message, byte, char, float32, int32, short, symbol, timestamp, ubyte, uint, ulong,
                    ushort)
from proton.handlers import MessagingHandler
from proton.reactor import Container

ID = uuid.UUID("018f3b6e-8a3c-7b1e-9f00-0123456789ab")


def typed(_):
    properties = {
        "null": None, "bool": True, "ubyte": ubyte(200), "ushort": ushort(60000), "uint": uint(4000000000),
        "ulong": ulong(7), "byte": byte(-5), "short": short(-300), "int": int32(-70000), "long": -5000000000,
        "float": float32(1.5), "double": 2.25, "string": "größe", "symbol": symbol("red"),
        "char": char("x"), "timestamp": timestamp(12345), "uuid": ID, "binary": b"zz",
    }
    return [Message(body=b"body", inferred=True, id=ID, subject="typed.topic", content_type="text/csv",
                    creation_time=1_700_000_000.5, group_id="g", priority=7, ttl=60, correlation_id="c",
                    properties=properties)]


def bodies(_):
    sections = b"\x00\x53\x75\xa0\x02ab\x00\x53\x75\xa0\x02cd"
    return [sections] + [Message(body=body, inferred=inferred) for body, inferred in
                         [(b"bin", False), ({"a": 1}, False), ([1, 2], False), ([1, 2], True), (7, False), (None, False)]]


def undecodable(_):
    return [b"\x00\x53\x73\xc0\x03\x01\xff\xff", Message(body="good", subject="good")]


def nested(_):
    def compound(code, key=b""):
        value = b"\x40"
        for _ in range(5_000):
            value = bytes([code]) + struct.pack(">II", 4 + len(key) + len(value), 2 if key else 1) + key + value
        return value

    values = [compound(0xD0), compound(0xD1, b"\xa1\x01k"), b"\x00\x53\x01" * 5_000 + b"\x40"]
    return [b"\x00\x53\x77" + value for value in values]


def one_id(_):
    different = [Message(body=f"{number}", id="1") for number in range(12)]
    return different + [Message(body="{}") for _ in range(8)]


def to(address):
    return [Message(body="{}", address=address)]


class Send(MessagingHandler):
    def __init__(self, url, address, messages):
        super().__init__()
        self.url, self.address, self.messages, self.open = url, address, messages, len(messages)

    def on_start(self, event):
        connection = event.container.connect(self.url, reconnect=False, allowed_mechs="ANONYMOUS")
        event.container.create_sender(connection, self.address)

    def on_sendable(self, event):
        while self.messages and event.sender.credit:
            message = self.messages.pop(0)
            if isinstance(message, bytes):
                event.sender.delivery(f"raw-{len(self.messages)}")
                event.sender.stream(message)
                event.sender.advance()
            else:
                event.sender.send(message)

    def on_delivery(self, event):
        if event.delivery.updated and event.delivery.remote_state:
            assert event.delivery.remote_state == Delivery.ACCEPTED, event.delivery.remote_state
            event.delivery.settle()
            self.open -= 1
            if not self.open:
                print(json.dumps({"sent": True}), flush=True)
                event.connection.close()


if __name__ == "__main__":
    url, address, shape = sys.argv[1:]
    shapes = {"nested": nested, "one_id": one_id, "typed": typed, "bodies": bodies, "undecodable": undecodable, "to": to}
    send = Send(url, address, shapes[shape](address))
    Container(send).run()
    sys.exit(1 if send.open else 0)
