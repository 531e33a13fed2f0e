"""Clients that send slowly, or do not read: cut off in time, with nothing left running. On virtual time."""

import asyncio
import json
import logging
from typing import Any

import pytest
from virtual_time import now

from deployments.router.application import create_application
from deployments.router.edge import Edge
from deployments.router.middleware import LARGEST_SEND, SLOWEST_BODY
from deployments.router.services import Services
from deployments.router.streaming import CutOff
from models.catalog import load_catalog


class Client:
    """One request. It sends a piece of its body every `every` seconds, and reads `reads` messages, then no more."""

    def __init__(
        self, services, body: bytes, *, path="/v1/embeddings", every=0.0, size=1 << 20, reads=1000, headers=(), **limits
    ):
        services = Services(load_catalog(), services.dispatcher, **limits)
        self.application = Edge(create_application(services))
        self.pieces = [body[start : start + size] for start in range(0, len(body), size)]
        self.every, self.reads = every, reads
        self.sent: list[dict] = []
        length = (b"content-length", str(len(body)).encode())
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), length, *headers],
        }

    async def receive(self) -> dict:
        if not self.pieces:
            await asyncio.Event().wait()
        await asyncio.sleep(self.every)
        return {"type": "http.request", "body": self.pieces.pop(0), "more_body": bool(self.pieces)}

    async def send(self, message: Any) -> None:
        if len(self.sent) >= self.reads:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def run(self) -> float:
        """Seconds until the request is over."""
        began = now()
        async with asyncio.timeout(3000):
            await self.application(self.scope, self.receive, self.send)
        return now() - began

    @property
    def answer(self) -> tuple[int, str]:
        document = json.loads(b"".join(message.get("body", b"") for message in self.sent))
        return self.sent[0]["status"], document.get("error", {}).get("code", "")


def embedding(model: str, text: str = "Hello") -> bytes:
    return json.dumps({"model": model, "input": text}).encode()


def chat(model: str, words: int) -> bytes:
    message = {"role": "user", "content": "word " * words}
    return json.dumps({"model": model, "messages": [message], "stream": True}).encode()


@pytest.fixture
def line(caplog):
    caplog.set_level(logging.INFO, "ray.serve.access")
    return lambda: next(record for record in caplog.records if getattr(record, "event", None) == "request")


@pytest.mark.parametrize(("size", "every"), [(1, 3600), (1, 1), (1, 0.3), (100, 10)])
async def test_a_body_that_comes_slowly_is_cut_off(services, embedding_model, size, every):
    client = Client(services, embedding(embedding_model, "a" * 5000), size=size, every=every)
    seconds = await client.run()
    assert client.answer == (408, "request_timeout")
    assert 20 <= seconds < 21


async def test_a_large_body_over_a_slow_line_gets_the_time_that_it_needs(services, embedding_model):
    body = embedding(embedding_model) + b" " * (1 << 20)
    client = Client(services, body, size=SLOWEST_BODY, every=1.1)
    assert await client.run() > 60
    assert client.answer == (200, "")


@pytest.mark.parametrize(("given", "code"), [("5", (504, "deadline_exceeded")), ("50", (408, "request_timeout"))])
async def test_the_clients_deadline_holds_from_the_first_byte(services, embedding_model, given, code):
    headers = [(b"x-deadline", given.encode())]
    client = Client(services, embedding(embedding_model), size=1, every=3600, headers=headers)
    assert await client.run() == pytest.approx(min(int(given), 20))
    assert client.answer == code


async def test_the_time_for_the_body_is_part_of_the_deadline(services, embedding_model, embeddings):
    async def slow(*_):
        await asyncio.sleep(5)

    embeddings.batcher.submit = slow
    headers = [(b"x-deadline", b"8")]
    client = Client(services, embedding(embedding_model), size=50, every=4, headers=headers)
    assert await client.run() == pytest.approx(8)
    assert client.answer == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    ("headers", "limits", "seconds", "code"),
    [
        ([(b"x-deadline", b"5")], {}, 5, "client_deadline_exceeded"),
        ([], {"deadline_s": 7}, 7, "deadline_exceeded"),
        ([], {}, 60, "request_timeout"),
    ],
)
async def test_a_client_that_does_not_read_its_stream_is_cut_off(
    *, services, chat_model, fake_chat, line, headers, limits, seconds, code
):
    fake_chat.seconds_per_token = 0.01
    body = chat(chat_model, 500)
    client = Client(services, body, path="/v1/chat/completions", reads=3, headers=headers, **limits)
    began = now()
    with pytest.raises(CutOff):
        await client.run()
    assert now() - began == pytest.approx(seconds, abs=0.5)
    made = fake_chat.tokens_made
    await asyncio.sleep(10)
    assert fake_chat.tokens_made == made < 10
    assert line().code == code


async def test_a_client_that_reads_slowly_is_left_alone(services, chat_model, fake_chat):
    client = Client(services, chat(chat_model, 20), path="/v1/chat/completions")
    send = client.send

    async def slowly(message: Any) -> None:
        await asyncio.sleep(20)
        await send(message)

    client.send = slowly
    assert await client.run() > 400
    assert b"[DONE]" in client.sent[-2]["body"] + client.sent[-1]["body"]


async def test_of_an_answer_that_is_not_read_only_a_slice_is_given_to_the_server(services, embedding_model, line):
    texts = json.dumps({"model": embedding_model, "input": ["Hello"] * 100, "encoding_format": "float"}).encode()
    client = Client(services, texts)
    await client.run()
    bodies = [message["body"] for message in client.sent[1:]]
    assert len(bodies) > 1
    assert max(map(len, bodies)) <= LARGEST_SEND
    assert [message["more_body"] for message in client.sent[1:]] == [True] * (len(bodies) - 1) + [False]
    assert len(json.loads(b"".join(bodies))["data"]) == 100
    stuck = Client(services, texts, reads=2)
    with pytest.raises(CutOff):
        await stuck.run()
    assert len(stuck.sent) == 2


async def test_nothing_is_held_while_a_body_is_only_promised(services, embedding_model, embeddings):
    client = Client(services, embedding(embedding_model), size=1, every=3600)
    task = asyncio.create_task(client.run())
    await asyncio.sleep(10)
    assert embeddings.admission.inside == []
    assert services.waiting.inside == 0
    await task
