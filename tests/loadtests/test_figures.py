"""From when a request is timed, and which vectors say something."""

import random

import pytest

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model
from loadtest.records import Record
from loadtest.tasks import kind_of

DUE = 10.0


@pytest.mark.parametrize("late", [0.0, 3.0])
def test_every_figure_counts_from_when_a_request_was_due(late):
    """A server that stalls keeps requests from being sent in time. What they wait is its doing, and counts."""
    record = Record(1, "id", "chat", "m", due=DUE, sent=DUE + late, first=DUE + late + 1.0, last=DUE + late + 5.0)
    record.tokens, record.chunks, record.audio_s, record.first_audio = 5, 5, 2.0, DUE + late + 1.5
    assert record.figures() == {
        "time_to_first_token_s": 1.0 + late,
        "time_per_output_token_s": 1.0,  # between tokens: nothing of it was before the first
        "duration_s": 5.0 + late,
        "time_to_first_audio_s": 1.5 + late,
        "real_time_factor": (5.0 + late) / 2,
    }
    assert record.lag == late


def test_a_figure_that_a_request_has_not_is_left_out():
    assert Record(1, "id", "chat", "m", due=DUE, sent=DUE).figures() == {}
    whole = Record(1, "id", "embeddings", "m", due=DUE, sent=DUE, first=DUE + 1, last=DUE + 1)
    assert whole.figures() == {"duration_s": 1.0}
    one_token = Record(1, "id", "chat", "m", due=DUE, sent=DUE, first=DUE + 1, last=DUE + 1, tokens=1, chunks=1)
    assert one_token.figures() == {"duration_s": 1.0, "time_to_first_token_s": 1.0}


@pytest.mark.parametrize(
    ("third", "right"),
    [
        ((0.0, 1.0), True),
        ((1.0, 0.05), False),  # nearer to the first
        ((0.8, 0.6), False),  # nearer to the second
        ((1.0, 0.0), False),  # the same as the first
    ],
)
def test_the_odd_one_out_must_be_farther_from_both(third, right):
    kind, model = kind_of("embeddings"), Model("m", "embeddings")
    asked = (kind.request(random.Random(seed), Arrival(0.0), model, {}) for seed in range(50))
    request = next(one for one in asked if len(one.body["input"]) == 3)
    rows = [(1.0, 0.0), (0.9, 0.436), third]
    why = kind.check(request, Answer([{"data": [{"embedding": list(row)} for row in rows]}]))
    assert (why == "") is right


def test_vectors_that_are_all_alike_say_nothing():
    kind, model = kind_of("embeddings"), Model("m", "embeddings")
    asked = (kind.request(random.Random(seed), Arrival(0.0), model, {}) for seed in range(50))
    request = next(one for one in asked if len(one.body["input"]) == 3)
    assert kind.check(request, Answer([{"data": [{"embedding": [1.0, 0.0]}] * 3}]))
