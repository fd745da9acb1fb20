"""Signs and verifies messages with Python's cryptography, as a peer does.

    signatures.py verify-dsse PUBLIC HEADER BODY         prints the signed description
    signatures.py sign-dsse PRIVATE ORIGIN DESCRIPTION   prints the header as a JSON string
    signatures.py verify-mqfactory PUBLIC WIRE           prints the message without its signature's hash
    signatures.py sign-mqfactory PRIVATE ORIGIN MESSAGE  prints the wire text as a JSON string
    signatures.py verify-event PUBLIC EVENT              prints the names of the signed extensions of a CloudEvent, a JSON
                                                         object of its attributes and its data, all texts
    signatures.py sign-event PRIVATE ORIGIN EVENT NAMES  prints its attribute dssematerial; NAMES are a JSON list
"""

import base64
import hashlib
import json
import sys
from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

TYPE = "application/vnd.tower-outbox.message.v1+json"
EVENT_TYPE = "https://cloudevents.io/verifiability/dsse/v0.1"


def pss(salt):
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=salt), hashes.SHA256()


def pae(payload, kind=TYPE):
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def public(path):
    with open(path, "rb") as file:
        return load_pem_public_key(file.read())


def private(path):
    with open(path, "rb") as file:
        return load_pem_private_key(file.read(), None)


def verify_dsse(path, header, body):
    envelope = json.loads(header)
    assert envelope["payloadType"] == TYPE
    payload = base64.b64decode(envelope["payload"])
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    key = public(path)
    if isinstance(key, Ed25519PublicKey):
        key.verify(signature, pae(payload))
    else:
        key.verify(signature, pae(payload), *pss(padding.PSS.DIGEST_LENGTH))
    described = json.loads(payload)
    assert described["body"] == hashlib.sha256(body.encode()).hexdigest()
    return described


def sign_dsse(path, origin, description):
    payload, key = description.encode(), private(path)
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(pae(payload))
    else:
        signature = key.sign(pae(payload), *pss(padding.PSS.DIGEST_LENGTH))
    encoded = lambda data: base64.b64encode(data).decode()
    signatures = [{"keyid": origin, "sig": encoded(signature)}]
    return json.dumps({"payload": encoded(payload), "payloadType": TYPE, "signatures": signatures})


def signed_text(message):
    return base64.b64encode(json.dumps(message, sort_keys=True).encode())


def verify_mqfactory(path, wire):
    message = json.loads(wire)
    assert json.dumps(message, sort_keys=True) == wire
    signature = base64.b64decode(message["tags"]["signature"].pop("hash"))
    public(path).verify(signature, signed_text(message), *pss(padding.PSS.MAX_LENGTH))
    return message


def sign_mqfactory(path, origin, message):
    message = json.loads(message)
    message["tags"]["signature"] = {"origin": origin, "ts": str(datetime.utcnow())}
    signature = private(path).sign(signed_text(message), *pss(padding.PSS.MAX_LENGTH))
    message["tags"]["signature"]["hash"] = base64.b64encode(signature).decode()
    return json.dumps(message, sort_keys=True)


def digest_of_digests(texts):
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()


def core_digest(event):
    time = event["time"]
    # To the second.
    event = dict(event, time=time[:19] + "Z" if time else "")
    names = ["id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time", "data"]
    return digest_of_digests(event.get(name, "") for name in names)


def verify_event(path, event):
    event = json.loads(event)
    envelope = json.loads(base64.b64decode(event["dssematerial"]))
    assert envelope["payloadType"] == EVENT_TYPE
    payload = base64.b64decode(envelope["payload"])
    public(path).verify(base64.b64decode(envelope["signatures"][0]["sig"]), pae(payload, EVENT_TYPE))
    material = json.loads(payload)
    assert material["core"] == core_digest(event)
    names = material["signedextattrs"]
    assert material["ext"] == digest_of_digests(event.get(name, "") for name in names)
    return names


def sign_event(path, origin, event, names):
    event, names = json.loads(event), json.loads(names)
    material = {"core": core_digest(event)}
    if names:
        material.update(ext=digest_of_digests(event.get(name, "") for name in names), signedextattrs=names)
    payload = json.dumps(material).encode()
    encoded = lambda data: base64.b64encode(data).decode()
    signatures = [{"keyid": origin, "sig": encoded(private(path).sign(pae(payload, EVENT_TYPE)))}]
    envelope = {"payload": encoded(payload), "payloadType": EVENT_TYPE, "signatures": signatures}
    return encoded(json.dumps(envelope).encode())


COMMANDS = [verify_dsse, sign_dsse, verify_mqfactory, sign_mqfactory, verify_event, sign_event]
command = next(command for command in COMMANDS if command.__name__ == sys.argv[1].replace("-", "_"))
print(json.dumps(command(*sys.argv[2:])))
