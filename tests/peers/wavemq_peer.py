"""Uses a WAVEMQ router through an unmodified pyxbos, as its drivers and processes do.

    wavemq_peer.py ADDRESS NAMESPACE       NAMESPACE is in base64url

Reads commands as lines of JSON, and answers each with a line of JSON:

    ["publish", URI, [TEXT, ..], PERSIST, ENTITY]    the code and message of the error, or null
    ["subscribe", PATTERN, IDENTIFIER, COUNT, ENTITY]    so many messages, or the error
    ["query", PATTERN, ENTITY]                   messages, or the error
    ["status"]                                   total and connected peers
    ["process", ENTITYFILE]                      publishes and receives with XBOSProcess
"""

import asyncio
import json
import sys

import grpc
from pyxbos.driver import b64decode
from pyxbos.eapi_pb2 import EntitySecret, Perspective
from pyxbos.wavemq_pb2 import ConnectionStatusParams, PayloadObject, PublishParams, QueryParams, SubscribeParams
from pyxbos.wavemq_pb2_grpc import WAVEMQStub

address, namespace = sys.argv[1], b64decode(sys.argv[2])
stub = WAVEMQStub(grpc.insecure_channel(address))


def perspective(entity):
    return Perspective(entitySecret=EntitySecret(DER=entity.encode()))


def shown(message):
    return {
        "uri": message.tbs.uri,
        "payload": [[item.schema, item.content.decode()] for item in message.tbs.payload],
        "drops": list(message.drops),
        "timestamps": len(message.timestamps),
        "origin": message.tbs.originRouter,
        "persist": message.persist,
    }


def publish(uri, texts, persist, entity):
    content = [PayloadObject(schema="text", content=text.encode()) for text in texts]
    answer = stub.Publish(
        PublishParams(perspective=perspective(entity), namespace=namespace, uri=uri, content=content, persist=persist)
    )
    return [answer.error.code, answer.error.message] if answer.error.code else None


def received(answers, count=None):
    found = []
    for answer in answers:
        if answer.error.code:
            return [answer.error.code, answer.error.message]
        found.append(shown(answer.message))
        if len(found) == count:
            # The message leaves the queue when the next one is asked for, which the library does by itself.
            answers.cancel()
            break
    return found


def subscribe(pattern, identifier, count, entity):
    params = SubscribeParams(
        perspective=perspective(entity), namespace=namespace, uri=pattern, identifier=identifier, expiry=60
    )
    return received(stub.Subscribe(params), count)


def query(pattern, entity):
    return received(stub.Query(QueryParams(perspective=perspective(entity), namespace=namespace, uri=pattern)))


def status():
    answer = stub.ConnectionStatus(ConnectionStatusParams())
    return [answer.totalPeers, answer.connectedPeers]


def process(entity):
    from pyxbos.process import XBOSProcess
    from pyxbos.xbos_pb2 import XBOS

    async def run():
        it, found = XBOSProcess({"wavemq": address, "entity": entity}), []

        async def listen():
            try:
                await it.subscribe_msg(sys.argv[2].encode(), "xbos/*", lambda answer: found.append(answer.message.tbs.uri))
            except asyncio.CancelledError:
                pass

        listening = asyncio.ensure_future(listen())
        while not found:
            await it.publish(sys.argv[2].encode(), "xbos/sensor", XBOS())
            await asyncio.sleep(0.05)
        listening.cancel()
        return found[0]

    return asyncio.get_event_loop().run_until_complete(run())


print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    name, *arguments = json.loads(line)
    try:
        answer = globals()[name](*arguments)
    except grpc.RpcError as error:
        answer = [error.code().name, error.details()]
    print(json.dumps(answer), flush=True)
