"""Drives the unmodified SDK kubemq 4.1.5; prints a line of JSON for each step.

    kubemq_sdk4.py ADDRESS sync|async [TOKEN]
"""

import asyncio
import json
import logging
import os
import sys
import time

from kubemq import (
    AsyncCancellationToken, AsyncCQClient, AsyncPubSubClient, AsyncQueuesClient, CancellationToken, CommandMessage, CommandResponse,
    CommandsSubscription, CQClient, EventMessage, EventsStoreSubscription, EventsSubscription, EventStoreMessage, PubSubClient,
    QueriesSubscription, QueryMessage, QueryResponse, QueuesClient, QueueMessage,
)
from kubemq.pubsub.events_store_subscription import EventStoreStartPosition

ADDRESS, MODE = sys.argv[1:3]
MORE = {"auth_token": sys.argv[3]} if len(sys.argv) > 3 else {}
logging.disable(logging.CRITICAL)


def show(name, result):
    print(json.dumps({"step": name, "result": result}), flush=True)


def step(name, work):
    try:
        show(name, work())
    except Exception as error:  # noqa: BLE001
        show(name, {"exception": str(error)})


async def async_step(name, work):
    try:
        show(name, await work)
    except Exception as error:  # noqa: BLE001
        show(name, {"exception": str(error)})


def until(done, seconds=5):
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)


def bodies(response):
    return {"error": response.error or "", "bodies": [m.body.decode() for m in response.messages]}


def sync_queues():
    with QueuesClient(address=ADDRESS, client_id="client", **MORE) as q:
        step("ping", lambda: {"version": q.ping().version})

        def send(channel, body, **more):
            r = q.send_queue_message(QueueMessage(channel=channel, body=body.encode(), metadata="m", **more))
            return {"error": r.error or "" if r.is_error else "", "sent": r.sent_at is not None}

        step("send", lambda: send("q", "0"))
        for i in range(1, 6):
            send("q", str(i))
        got = q.receive_queue_messages("q", 2, 2)
        show("receive", bodies(got))
        got.messages[0].ack()
        got.messages[1].nack()
        until(lambda: False, 0.1)
        rest = q.receive_queue_messages("q", 10, 1)
        show("after ack and nack", bodies(rest))
        show("counts", [m.receive_count for m in rest.messages])
        rest.messages[0].re_queue("other")
        until(lambda: False, 0.1)
        show("requeued", bodies(q.receive_queue_messages("other", 1, 1, auto_ack=True)))
        rest.close_transaction()
        again = q.receive_queue_messages("q", 10, 1)
        show("after close", bodies(again))
        again.ack_all()
        until(lambda: False, 0.1)
        show("after ack all", bodies(q.receive_queue_messages("q", 10, 1)))
        step("send to die", lambda: send("dying", "d", max_receive_count=1, max_receive_queue="dead"))
        q.receive_queue_messages("dying", 1, 1).reject_all()
        until(lambda: False, 0.1)
        dead = q.receive_queue_messages("dead", 1, 1, auto_ack=True)
        show("dead letter", {**bodies(dead), "from": dead.messages[0].re_route_from_queue if dead.messages else None})
        step("simple", lambda: q.send_queue_message_simple(QueueMessage(channel="s", body=b"1", metadata="m")).is_error)
        step("batch", lambda: len(q.send_queue_messages_batch(
            [QueueMessage(channel="s", body=str(i).encode(), metadata="m") for i in range(3)]).results))
        step("peek", lambda: len(q.peek_queue_messages("s", 10, 1).messages))
        step("pull", lambda: len(q.pull("s", 2, 1).messages))
        step("ack all waiting", lambda: q.ack_all_queue_messages("s", 1))
        step("refused", lambda: send("q", "x", expiration_in_seconds=43_201))
        step("create", lambda: q.create_queues_channel("made"))
        step("list", lambda: [(c.name, c.type) for c in q.list_queues_channels("made")])
        step("delete", lambda: q.delete_queues_channel("made"))
        step("list deleted", lambda: [c.name for c in q.list_queues_channels("made")])
        step("delete again", lambda: q.delete_queues_channel("made"))


def sync_events():
    with PubSubClient(address=ADDRESS, client_id="client", **MORE) as p:
        events, token = [], CancellationToken()
        p.subscribe_to_events(EventsSubscription("ev.*", lambda e: events.append(e.body.decode()), None, lambda e: None), token)
        time.sleep(0.5)
        p.send_event(EventMessage(channel="ev.a", body=b"unary", metadata="m"))
        p.publish_event(EventMessage(channel="ev.b", body=b"stream", metadata="m"))
        until(lambda: len(events) == 2)
        show("events", sorted(events))
        token.cancel()
        step("stored", lambda: p.send_event_store(EventStoreMessage(channel="es", body=b"0", metadata="m")).sent)
        for i in range(1, 4):
            p.send_event_store(EventStoreMessage(channel="es", body=str(i).encode(), metadata="m"))
        stored, token = [], CancellationToken()
        start = EventStoreStartPosition.StartAtSequence
        p.subscribe_to_events_store(
            EventsStoreSubscription("es", lambda e: stored.append([e.sequence, e.body.decode()]), None, start, 3), token)
        until(lambda: len(stored) == 2)
        show("event store", stored)
        token.cancel()
        step("bad stored", lambda: p.send_event_store(EventStoreMessage(channel="es", tags={"a": "b"})).error)
        for kind in ["events", "events_store"]:
            step(f"create {kind}", lambda kind=kind: getattr(p, f"create_{kind}_channel")(f"made-{kind}"))
            step(f"list {kind}", lambda kind=kind: [c.name for c in getattr(p, f"list_{kind}_channels")("made")])
            step(f"delete {kind}", lambda kind=kind: getattr(p, f"delete_{kind}_channel")(f"made-{kind}"))


def sync_requests():
    with CQClient(address=ADDRESS, client_id="client", **MORE) as c:
        token = CancellationToken()

        def command(request):
            c.send_response_message(CommandResponse(request, is_executed=True, tags={"k": "v"}))

        def query(request):
            c.send_response_message(QueryResponse(request, is_executed=True, body=b"answer " + request.body, metadata="meta"))

        c.subscribe_to_commands(CommandsSubscription("cmd", command, None, lambda e: None), token)
        c.subscribe_to_queries(QueriesSubscription("query", query, "g", lambda e: None), token)
        time.sleep(0.5)
        step("command", lambda: [c.send_command(CommandMessage("cmd", 2, body=b"x")).is_executed])

        def ask(**more):
            r = c.send_query(QueryMessage("query", 2, body=b"x", **more))
            return {"executed": r.is_executed, "body": r.body.decode(), "metadata": r.metadata, "hit": r.cache_hit}

        step("query", ask)
        step("cached", lambda: ask(cache_key="k", cache_ttl_in_seconds=5))
        step("cached again", lambda: ask(cache_key="k", cache_ttl_in_seconds=5))
        step("nobody", lambda: c.send_command(CommandMessage("nobody", 1, body=b"x")).is_executed)
        for kind in ["commands", "queries"]:
            step(f"create {kind}", lambda kind=kind: getattr(c, f"create_{kind}_channel")(f"made-{kind}"))
            step(f"list {kind}", lambda kind=kind: [i.name for i in getattr(c, f"list_{kind}_channels")("made")])
            step(f"delete {kind}", lambda kind=kind: getattr(c, f"delete_{kind}_channel")(f"made-{kind}"))
        token.cancel()


async def async_queues():
    async with AsyncQueuesClient(address=ADDRESS, client_id="client", **MORE) as q:
        # Until the first answer the SDK loses what is sent beside it.
        await q.send_queue_message(QueueMessage(channel="first", body=b"0", metadata="m"))
        results = await asyncio.gather(*[
            q.send_queue_message(QueueMessage(channel="aq", body=str(i).encode(), metadata="m")) for i in range(100)])
        show("sent", sum(not r.is_error for r in results))
        got = await q.receive_queue_messages("aq", 100, 2)
        show("received", len(got.messages))
        for message in got.messages[:50]:
            await message.async_ack()
        await asyncio.sleep(0.2)
    async with AsyncQueuesClient(address=ADDRESS, client_id="client", **MORE) as q:
        rest = await q.receive_queue_messages("aq", 100, 2, auto_ack=True)
        show("back after close", len(rest.messages))
        await async_step("empty", count(q.receive_queue_messages("aq", 1, 0)))


async def count(receiving):
    return len((await receiving).messages)


async def async_events():
    async with AsyncPubSubClient(address=ADDRESS, client_id="aclient", **MORE) as p:
        got, token = [], AsyncCancellationToken()

        async def listen():
            subscription = EventsSubscription("aev", lambda e: None)
            async for event in p.subscribe_to_events(subscription, token):
                got.append(event.body.decode())
                if len(got) == 10:
                    return

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.5)
        for i in range(10):
            await p.publish_event(EventMessage(channel="aev", body=str(i).encode(), metadata="m"))
        await asyncio.wait_for(task, 5)
        show("async events", got)
        for i in range(5):
            await p.send_event_store(EventStoreMessage(channel="aes", body=str(i).encode(), metadata="m"))
        stored = []

        async def listen_store():
            first = EventStoreStartPosition.StartFromFirst
            async for event in p.subscribe_to_events_store(
                    EventsStoreSubscription("aes", lambda e: None, None, first), AsyncCancellationToken()):
                stored.append(event.sequence)
                if len(stored) == 5:
                    return

        await asyncio.wait_for(listen_store(), 5)
        show("async event store", stored)


async def async_requests():
    async with AsyncCQClient(address=ADDRESS, client_id="aclient", **MORE) as c:
        async def respond():
            async for request in c.subscribe_to_queries(QueriesSubscription("aquery", lambda r: None), AsyncCancellationToken()):
                await c.send_response(QueryResponse(request, is_executed=True, body=request.body, metadata="m"))

        task = asyncio.create_task(respond())
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*[c.send_query(QueryMessage("aquery", 5, body=str(i).encode())) for i in range(50)])
        show("async queries", [a.body.decode() for a in answers] == [str(i) for i in range(50)])
        task.cancel()


if MODE == "sync":
    sync_queues()
    sync_events()
    sync_requests()
else:
    for part in [async_queues, async_events, async_requests]:
        asyncio.run(part())
sys.stdout.flush()
os._exit(0)
