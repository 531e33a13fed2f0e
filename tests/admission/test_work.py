"""How much requests give a replica to do, before anybody has counted it."""

import pytest
from replicas import chat_server, embedding_server, faked, started

from deployments.servers.lengths import UNLIMITED, Lengths
from models.catalog import load_catalog
from models.tasks.chat import GenerationRequest
from models.tasks.embeddings import EmbeddingRequest
from models.tasks.images import ImageRequest


@pytest.mark.parametrize(("a_token", "a_text"), [(0.5, 12.0), (0.1, 1.0), (1.0, 2.0)])
def test_tokens_for_characters_are_learnt(a_token, a_text):
    lengths = Lengths()
    for characters in (10, 100, 1000, 3000) * 100:
        lengths.learn(characters, round(a_token * characters + a_text))
    for characters in (100, 1000, 3000):
        assert lengths.tokens(characters) == pytest.approx(a_token * characters + a_text, rel=0.25)


def test_answers_are_as_long_as_others_with_such_a_limit_were():
    lengths = Lengths()
    assert (lengths.answer(64), lengths.answer(None)) == (64, UNLIMITED)
    for _ in range(100):
        lengths.learn_answer(64, 20)
        lengths.learn_answer(None, 90)
    assert lengths.answer(100) == lengths.answer(64) == pytest.approx(20)
    assert lengths.answer(None) == pytest.approx(90)
    assert lengths.answer(16) == 16
    assert lengths.answer(1000) == 1000
    assert lengths.answer(64, all_of_it=True) == 64


@pytest.mark.parametrize(
    ("method", "body", "more", "times"),
    [
        ("complete", {"prompt": [[1] * 100]}, {"prompt": [[1] * 100] * 4}, {"read": 4, "width": 4}),
        ("complete", {"prompt": [1] * 100}, {"n": 3}, {"read": 1, "width": 3}),
        ("complete", {"prompt": [1] * 100, "max_tokens": 8}, {"max_tokens": 32}, {"read": 1, "steps": 4}),
        ("complete", {"prompt": "a" * 8000}, {"prompt": ["a" * 8000] * 2}, {"read": 2, "width": 2}),
        ("chat", {"messages": [{"content": "a"}]}, {"messages": [{"content": "a" * 8000}]}, {"read": 890}),
        ("chat", {"messages": [{"content": "a" * 800}]}, {"tools": [{"a": "b" * 800}]}, {"read": 2}),
        ("chat", {"messages": [{"content": None}]}, {"max_completion_tokens": 128}, {"steps": 0.5}),
    ],
)
async def test_the_work_of_a_chat_is_in_its_tokens(method, body, more, times):
    server = await chat_server()
    server.lengths = Lengths()
    one, other = (server.work(method, GenerationRequest(asked, "r")) for asked in (body, body | more))
    for name, ratio in times.items():
        assert getattr(other, name) / getattr(one, name) == pytest.approx(ratio, rel=0.4)


async def test_the_work_of_embeddings_is_in_their_tokens():
    server = await embedding_server()
    one = server.work("embed", EmbeddingRequest(((1,) * 50,)))
    assert (one.steps, one.items, one.read) == (50, 1, 0)
    many = server.work("embed", EmbeddingRequest(((1,) * 50,) * 1000))
    assert (many.steps, many.items) == (50_000, 1000)
    assert server.work("embed", EmbeddingRequest(("a" * 400,))).steps == pytest.approx(100, rel=0.5)
    assert server.work("embed", EmbeddingRequest(("a" * 10**6,), truncate=7)).steps == 7


async def test_the_work_of_pictures_is_in_their_pixels_and_steps():
    server = await started(faked(load_catalog()["doodle"]))
    own = server.settings
    one = server.work("make", ImageRequest("red"))
    assert (one.steps, one.width) == (own.steps, 1)
    large = server.work("make", ImageRequest("red", n=3, width=2 * own.width, height=2 * own.height, steps=7))
    assert (large.steps, large.width, large.read) == (7, 12, 12 * one.read)
