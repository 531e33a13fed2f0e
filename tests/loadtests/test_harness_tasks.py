"""What is asked of each task, and that a wrong answer is told from a right one."""

import random

import pytest
from fake_server import picture

from loadtest.arrivals import Arrival
from loadtest.tasks import KINDS
from loadtest.tasks.embeddings import ALIKE
from loadtest.tasks.task import Answer, Model

MODEL = Model("m", "any", {"styles": ["pop"], "scale": 4, "size": "64x64"})


def request(task, seed=1, **options):
    return KINDS[task].request(random.Random(seed), Arrival(0.0), MODEL, options)


@pytest.mark.parametrize("task", KINDS)
def test_requests_are_the_same_for_the_same_seed_and_differ_otherwise(task):
    assert request(task) == request(task)
    assert len({repr(request(task, seed).body) + repr(request(task, seed).files) for seed in range(30)}) > 5


def events(tokens, reason="length", text="word "):
    said = [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for _ in range(tokens)]
    return [
        *said,
        {"choices": [{"delta": {}, "finish_reason": reason}]},
        {"choices": [], "usage": {"completion_tokens": tokens}},
    ]


def test_a_chat_has_the_tokens_that_were_asked_for():
    asked = request("chat", max_tokens=8, max_prompt_tokens=50)
    check = KINDS["chat"].check
    assert asked.stream
    assert asked.body["max_tokens"] == asked.wants <= 8
    assert check(asked, Answer(events(asked.wants))) == ""
    assert "asked for" in check(asked, Answer(events(asked.wants - 1)))
    assert "ended with" in check(asked, Answer(events(asked.wants, reason="stop")))
    assert "no text" in check(asked, Answer(events(asked.wants, text=" ")))
    assert "usage" in check(asked, Answer(events(asked.wants)[:-1]))


def test_a_chat_follows_a_trace_scaled_and_cut():
    arrival = Arrival(0.0, 1000, 400)
    asked = KINDS["chat"].request(
        random.Random(1), arrival, MODEL, {"scale": 0.1, "max_prompt_tokens": 512, "max_tokens": 30}
    )
    assert asked.wants == 30
    words = len(asked.body["messages"][0]["content"].split())
    assert words * 1.3 == pytest.approx(100, rel=0.2)


def test_no_two_prompts_share_a_prefix():
    prompts = [request("chat", seed, max_prompt_tokens=200).body["messages"][0]["content"][:60] for seed in range(50)]
    assert len(set(prompts)) > 45


def vectors(*rows):
    return Answer([{"data": [{"embedding": list(row)} for row in rows]}])


def test_embeddings_of_like_sentences_are_nearer():
    asked = next(one for one in (request("embeddings", seed) for seed in range(50)) if len(one.body["input"]) == 3)
    assert tuple(asked.body["input"][:2]) in ALIKE
    check = KINDS["embeddings"].check
    assert check(asked, vectors((1, 0), (1, 0.1), (0, 1))) == ""
    assert "no nearer" in check(asked, vectors((1, 0), (0, 1), (1, 0.1)))
    assert "2 embeddings" in check(asked, vectors((1, 0), (0, 1)))
    assert "one size" in check(asked, vectors((1, 0), (0, 1), (1, 0, 1)))
    assert "one size" in check(asked, vectors((1, 0), (0, 1), (float("nan"), 0)))


@pytest.mark.parametrize(
    ("task", "side", "options"), [("images", 64, {}), ("upscaling", 256, {"side": 64}), ("styles", 128, {"side": 128})]
)
def test_pictures_have_the_size_that_was_asked_for_and_show_something(task, side, options):
    asked, check = request(task, **options), KINDS[task].check
    assert check(asked, Answer([{"data": [picture(side, side)]}])) == ""
    assert "asked was" in check(asked, Answer([{"data": [picture(side, side // 2)]}]))
    assert "one colour" in check(asked, Answer([{"data": [picture(side, side, plain=True)]}]))
    assert "0 pictures" in check(asked, Answer([{"data": []}]))
    assert KINDS[task].amount(Answer([{"data": [picture(side, side)]}])) == 1
