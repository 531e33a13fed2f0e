"""What is asked of each task, and that a wrong answer is told from a right one."""

import random

import pytest
from fake_server import RERANKING, picture, wav
from runs import TASKS

from loadtest.arrivals import Arrival
from loadtest.example import EXAMPLE
from loadtest.kind import Answer, Model
from loadtest.tasks import can_be_asked, kind_of
from loadtest.tasks.embeddings import ALIKE

MODEL = Model("m", "any", {"styles": ["pop"], "scale": 4, "size": "64x64"})


def request(task, seed=1, **options):
    return kind_of(task).request(random.Random(seed), Arrival(0.0), MODEL, options)


@pytest.mark.parametrize("task", TASKS)
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
    check = kind_of("chat").check
    assert asked.body["stream"]
    assert asked.body["max_tokens"] == asked.wants <= 8
    assert check(asked, Answer(events(asked.wants))) == ""
    assert "asked for" in check(asked, Answer(events(asked.wants - 1)))
    assert "ended with" in check(asked, Answer(events(asked.wants, reason="stop")))
    assert "no text" in check(asked, Answer(events(asked.wants, text=" ")))
    assert "usage" in check(asked, Answer(events(asked.wants)[:-1]))


def test_a_chat_follows_a_trace_scaled_and_cut():
    arrival = Arrival(0.0, 1000, 400)
    asked = kind_of("chat").request(
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
    check = kind_of("embeddings").check
    assert check(asked, vectors((1, 0), (1, 0.1), (0, 1))) == ""
    assert "no nearer" in check(asked, vectors((1, 0), (0, 1), (1, 0.1)))
    assert "2 embeddings" in check(asked, vectors((1, 0), (0, 1)))
    assert "one size" in check(asked, vectors((1, 0), (0, 1), (1, 0, 1)))
    assert "one size" in check(asked, vectors((1, 0), (0, 1), (float("nan"), 0)))


@pytest.mark.parametrize(
    ("task", "side", "options"), [("images", 64, {}), ("upscaling", 256, {"side": 64}), ("styles", 128, {"side": 128})]
)
def test_pictures_have_the_size_that_was_asked_for_and_show_something(task, side, options):
    asked, check = request(task, **options), kind_of(task).check
    assert check(asked, Answer([{"data": [picture(side, side)]}])) == ""
    assert "asked was" in check(asked, Answer([{"data": [picture(side, side // 2)]}]))
    assert "one colour" in check(asked, Answer([{"data": [picture(side, side, plain=True)]}]))
    assert "0 pictures" in check(asked, Answer([{"data": []}]))
    assert kind_of(task).amount(Answer([{"data": [picture(side, side)]}])) == 1


# Tasks without a kind of their own


@pytest.mark.parametrize("task", ["reranking", "text-to-speech", "a.b", ""])
def test_a_task_without_requests_of_its_own_is_asked_for_its_example(task):
    assert kind_of(task) is EXAMPLE
    assert can_be_asked(Model("m", task, RERANKING))
    assert not can_be_asked(Model("m", task))
    assert not can_be_asked(Model("m", task, {"example": None}))


def test_a_task_with_requests_of_its_own_needs_no_example():
    assert all(can_be_asked(Model("m", task)) for task in TASKS)


def test_an_example_is_sent_as_it_is_but_for_the_model_and_what_a_scenario_says():
    model, options = Model("a@int8", "reranking", RERANKING), {"top_n": 1, "query": "bird"}
    asked = [EXAMPLE.request(random.Random(seed), Arrival(0.0), model, options) for seed in (1, 2)]
    assert asked[0] == asked[1]
    assert asked[0].path == "/v1/rerank"
    assert asked[0].body == {"model": "a@int8", "query": "bird", "documents": ["a cod", "a cup"], "top_n": 1}
    assert "model" not in RERANKING["example"]["body"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer([{"label": "cat"}]), ""),
        (Answer([{"error": {"message": "no room"}}]), "no room"),
        (Answer([{"label": "cat", "error": None}]), ""),
        (Answer([["cat"]]), "['cat'] came, and no answer"),
        (Answer([{"type": "begins"}, {"error": {"message": "it broke"}}]), "it broke"),
        (Answer([], wav(0.1), "audio/wav"), ""),
        (Answer([], b"", "audio/wav"), "it is empty"),
        (Answer([], b"<html>it broke</html>", "audio/wav"), "it is called audio/wav, and begins with b'<html>it bro'"),
        (Answer([], b"RI", "audio/wav"), "it is called audio/wav"),
        (Answer([], b"\0\0\0\x20ftypisom", "video/mp4"), ""),
        (Answer([], b"anything", "application/octet-stream"), ""),
    ],
)
def test_an_answer_to_an_example_is_complete_and_what_it_is_called(answer, why):
    found = EXAMPLE.check(EXAMPLE.request(random.Random(1), Arrival(0.0), Model("m", "any", RERANKING), {}), answer)
    assert why in found
    assert bool(why) is bool(found)


@pytest.mark.parametrize(
    ("documents", "amount"),
    [
        ([{"usage": {"prompt_tokens": 3, "total_tokens": 7}}], 7),
        ([{"usage": {"total_tokens": None}}], 1),
        ([{}], 1),
        ([{"usage": None}], 1),
        ([{"usage": [7]}], 1),
        ([["cat"]], 1),
        ([], 1),
    ],
)
def test_the_amount_of_an_answer_to_an_example_is_the_total_of_its_usage(documents, amount):
    assert EXAMPLE.amount(Answer(documents)) == amount
