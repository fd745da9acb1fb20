"""A peer as the users of mqfactory have it: JSON, Signing and Acknowledging over MQTT, without its faults.

    mqfactory_peer.py keys FOLDER ORIGIN ..
    mqfactory_peer.py peer URL NAME [--handle TOPIC ..] [--swallow N] [--back TOPIC] [--count-after S] [--send TOPIC SCRIPT] [--key F --origin O --trusted DIR]

`keys` writes FOLDER/ORIGIN.key, a private key (RSA, 2048 bits), and FOLDER/ORIGIN.pem, its public key.

`peer` prints {"ready": true} once it has subscribed, then one JSON line an event, each with "at", its time in seconds:

  message     a message to a handled topic: topic, id, tags, payload, and "verified" (true, false, or null if unsigned)
  confirmed   the confirmation of a message it sent: id, how often it was sent, and "verified"
  unreadable  what is no message: topic

It confirms what it handles to the address in the tag `ack`, but for the first N confirmations. With --trusted it confirms and
believes only what is signed. It sends what SCRIPT names, a
JSON list: "good", "tampered" (the payload is changed after signing), "unsigned" and "text" (no JSON), each with a payload
{"n": its place}. With --back it answers each
handled message by a good one to TOPIC, with the next n, and prints no message; after S seconds it
prints {"rate": messages handled in a second}. A good message is sent again every 5 s, with the same id and a new signature, until it is confirmed.
"""

import argparse
import base64
import datetime
import json
import os
import socket
import sys
import threading
import time
import uuid
from urllib.parse import urlparse

import paho.mqtt.client as paho
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

TIMEOUT = 5.0
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.MAX_LENGTH)
lock = threading.Lock()


def say(event, **fields):
    with lock:
        print(json.dumps({"event": event, "at": time.time(), **fields}), flush=True)


def dumps(message):
    return json.dumps(message, sort_keys=True)


def signed_bytes(message):
    return base64.b64encode(dumps(message).encode())


class Peer:
    def __init__(self, args):
        self.args = args
        self.unconfirmed = {}
        self.handled = 0
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_connect = self.on_connect
        self.client.on_subscribe = self.on_subscribe
        self.client.on_message = self.on_message
        self.client.on_socket_open = lambda client, userdata, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.key = None
        if args.key:
            self.key = serialization.load_pem_private_key(open(args.key, "rb").read(), None)

    def run(self):
        url = urlparse(self.args.url)
        self.client.connect(url.hostname, url.port)
        self.client.loop_start()
        begun = time.time()
        try:
            while True:
                time.sleep(0.01)
                if self.args.count_after and time.time() - begun > self.args.count_after:
                    print(json.dumps({"rate": self.handled / (time.time() - begun)}), flush=True)
                    self.args.count_after = None
                for message in list(self.unconfirmed.values()):
                    if time.time() - message["sent"] >= TIMEOUT:
                        self.send_again(message)
        except KeyboardInterrupt:
            pass

    def on_connect(self, client, userdata, flags, reason, properties):
        topics = [f"{self.args.name}/ack", *self.args.handle]
        client.subscribe([(topic, paho.SubscribeOptions(qos=1)) for topic in topics])

    def on_subscribe(self, client, userdata, mid, reasons, properties):
        if not self.unconfirmed:
            with lock:
                print(json.dumps({"ready": True}), flush=True)
        if self.args.send:
            (topic, script), self.args.send = self.args.send, None
            for n, kind in enumerate(json.loads(script)):
                self.send(topic, kind, {"n": n})

    # ---- sending

    def send(self, topic, kind, payload):
        if kind == "text":
            self.client.publish(topic, b"no JSON \xff", qos=1)
            return
        message = {"tags": {"id": str(uuid.uuid4()), "ack": f"{self.args.name}/ack"}, "payload": payload}
        if kind == "good":
            self.unconfirmed[message["tags"]["id"]] = {"topic": topic, "message": message, "sent": time.time(), "times": 1}
        if kind != "unsigned":
            message = self.signed(message)
        if kind == "tampered":
            message["payload"] = {**payload, "tampered": True}
        self.client.publish(topic, dumps(message), qos=1)

    def send_again(self, unconfirmed):
        unconfirmed["sent"] = time.time()
        unconfirmed["times"] += 1
        unconfirmed["message"]["tags"]["sent"] = int(time.time() * 1000)
        self.client.publish(unconfirmed["topic"], dumps(self.signed(unconfirmed["message"])), qos=1)

    def signed(self, message):
        if not self.key:
            return message
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        message = {**message, "tags": {**message["tags"], "signature": {"origin": self.args.origin, "ts": now}}}
        signature = self.key.sign(signed_bytes(message), PSS, hashes.SHA256())
        message["tags"]["signature"]["hash"] = base64.b64encode(signature).decode()
        return message

    # ---- receiving

    def verified(self, message):
        signature = message["tags"].get("signature")
        if signature is None:
            return None
        unsigned = {**signature}
        hashed = base64.b64decode(unsigned.pop("hash"))
        body = signed_bytes({**message, "tags": {**message["tags"], "signature": unsigned}})
        with open(os.path.join(self.args.trusted, signature["origin"] + ".pem"), "rb") as file:
            key = serialization.load_pem_public_key(file.read())
        try:
            key.verify(hashed, body, PSS, hashes.SHA256())
            return True
        except InvalidSignature:
            return False

    def on_message(self, client, userdata, packet):
        try:
            message = json.loads(packet.payload)
            tags = message.setdefault("tags", {})
            verified = self.verified(message) if self.args.trusted else None
        except Exception as error:
            say("unreadable", topic=packet.topic, error=repr(error))
            return
        if packet.topic == f"{self.args.name}/ack":
            if self.args.trusted and not verified:
                return
            confirmed = self.unconfirmed.pop(tags.get("confirm"), None)
            if confirmed and not self.args.back:
                say("confirmed", id=tags["confirm"], times=confirmed["times"], verified=verified)
            return
        if not self.args.back:
            say("message", topic=packet.topic, id=tags.get("id"), tags=tags, payload=message.get("payload"), verified=verified)
        if "ack" not in tags or (self.args.trusted and not verified):
            return
        if self.args.swallow > 0:
            self.args.swallow -= 1
            return
        confirmation = {"tags": {"id": str(uuid.uuid4()), "confirm": tags["id"]}, "payload": {}}
        client.publish(tags["ack"], dumps(self.signed(confirmation)), qos=1)
        if self.args.back:
            self.handled += 1
            self.send(self.args.back, "good", {"n": message["payload"]["n"] + 1})


def keys(folder, origins):
    for origin in origins:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for name, text in [(f"{origin}.key", private), (f"{origin}.pem", public)]:
            descriptor = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o600)
            with open(descriptor, "wb") as file:
                file.write(text)


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("keys")
    make.add_argument("folder")
    make.add_argument("origins", nargs="+")
    peer = commands.add_parser("peer")
    peer.add_argument("url")
    peer.add_argument("name")
    peer.add_argument("--handle", action="append", default=[])
    peer.add_argument("--swallow", type=int, default=0)
    peer.add_argument("--back")
    peer.add_argument("--count-after", type=float)
    peer.add_argument("--send", nargs=2)
    peer.add_argument("--key")
    peer.add_argument("--origin")
    peer.add_argument("--trusted")
    args = parser.parse_args()
    if args.command == "keys":
        keys(args.folder, args.origins)
    else:
        Peer(args).run()


sys.exit(main())
