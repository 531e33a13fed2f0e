"""Who is let in, what is learnt, and what a client is told."""

import contextlib
import math
import random
import time
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from deployments.router.admission import Admission, AdmissionRequest, address_of, is_batch, learn
from deployments.router.prediction import LEAST, Line, Predictor
from deployments.router.record import RequestRecord
from models.catalog import load_catalog
from models.errors import TooBusy
from models.slo import Targets
from models.tasks.usage import COMPLETION_TOKENS, PROMPT_TOKENS, Usage

CHAT = load_catalog()["smollm2-135m-instruct"]
PROMISE = Targets(time_to_first_token_s=1.0, time_per_output_token_s=0.1, good=0.99, availability=0.999)


def of_chat(**known) -> RequestRecord:
    return RequestRecord("test", model=CHAT.id, task="chat", **known)


def taught(line, slope, base, rounds=5, noise=0.0):
    draw = random.Random(1)
    for _ in range(rounds):
        for load in range(1, 9):
            line.learn(load, base + slope * load + draw.gauss(0, noise))
    return line


def admission(slope=0.1, base=0.05, **promise):
    """A model whose first token takes `base` and `slope` for each request under way."""
    found = Admission({CHAT.id: PROMISE.model_copy(update=promise)})
    taught(found.load(CHAT.id).predictor.first_s, slope, base)
    return found


def enter(admission, stack, asked=AdmissionRequest(), replicas=1):  # noqa: B008  frozen
    place = admission.admit(CHAT, replicas, asked, RequestRecord("test"))
    place.__enter__()
    stack.append(place)


def full(admission, asked=AdmissionRequest(), replicas=1, most=1000):  # noqa: B008
    """Let in as many as there is room for; how many that was, and the refusal."""
    stack = []
    for count in range(most):
        try:
            enter(admission, stack, asked, replicas)
        except TooBusy as error:
            return count, error, stack
    return most, None, stack


@given(st.floats(0, 2), st.floats(0.001, 5))
def test_a_line_is_learnt(slope, base):
    line = taught(Line(), slope, base)
    assert line.at(20) == pytest.approx(base + 20 * slope, rel=0.01, abs=0.01)
    if slope > 0.01:
        assert line.load_for(base + 5 * slope) == pytest.approx(5, rel=0.05)


def test_a_line_follows_a_model_that_gets_slower_and_faster():
    line = taught(Line(), 0.1, 0.0, rounds=30)
    taught(line, 0.3, 0.0, rounds=60)
    assert line.at(10) == pytest.approx(3, rel=0.05)
    taught(line, 0.1, 0.0, rounds=60)
    assert line.at(10) == pytest.approx(1, rel=0.05)


def test_a_flat_line_is_not_trusted_beyond_what_was_seen():
    """Four places: up to there nobody waits, and each takes a second."""
    line = Line()
    for load in [1, 2, 3, 4] * 10:
        line.learn(load, 1.0)
    assert line.load_for(2.5) > 1000
    assert line.safe_load_for(2.5) == pytest.approx(4 * 2.5, rel=0.05)  # half of them would wait
    for load in [1, 4, 8, 10] * 30:
        line.learn(load, max(1.0, load / 4))
    assert 7.5 < line.safe_load_for(2.5) < 10  # less than ten, for the line has a kink and is kept off it
    assert taught(Line(), 0.1, 0.0).safe_load_for(0.5) == pytest.approx(5, rel=0.05)


def test_a_few_that_waited_for_a_dead_replica_are_not_what_is_expected_next():
    line = taught(Line(), 0.0, 0.05, rounds=20, noise=0.01)
    before = line.surely(2)
    for _ in range(4):
        line.learn(4, 4.0)
    assert line.surely(2) < before * 2
    for _ in range(60):
        line.learn(2, 4.0)  # it did get slower
    assert line.at(2) > 2


def test_a_bad_minute_is_forgotten_although_few_are_let_in():
    """Long prompts made a fifth of the short ones wait for eight seconds; now there is one every two seconds."""
    line, now = Line(), 0.0
    for number in range(120):
        now += 0.5
        line.learn(1 + number % 4, 8.0 if number % 5 == 0 else 0.1, now)
    assert line.surely(2) > 2.5
    for _ in range(30):
        now += 2.0
        line.learn(1, 0.1, now)
    assert line.surely(2) < 2


def test_what_is_long_past_is_not_known():
    line = Line()
    for number in range(60):
        line.learn(1, 0.1, number)
    assert line.known
    line.learn(1, 0.1, 1000)
    assert not line.known


def test_noise_is_room_that_is_kept():
    quiet, noisy = taught(Line(), 0.1, 0.1), taught(Line(), 0.1, 0.1, rounds=40, noise=0.1)
    assert noisy.load_for(1.0) < quiet.load_for(1.0) - 0.5


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1e3)), min_size=LEAST, max_size=80), st.floats(0.001, 1e3))
def test_nothing_that_is_learnt_breaks_the_arithmetic(observed, limit):
    line = Line()
    for load, seconds in observed:
        line.learn(load, seconds)
    heavier = [line.at(load) for load in (1, 10, 100, 1000)]
    assert heavier[0] >= 0
    assert heavier == sorted(heavier)
    assert line.surely(10) >= line.at(10)
    for found in (line.load_for(limit), line.safe_load_for(limit)):
        assert not math.isnan(found)
    if line.load_for(limit) <= line.highest:
        assert line.safe_load_for(limit) == line.load_for(limit)
    else:
        assert line.safe_load_for(limit) >= line.highest


def test_everybody_is_let_in_before_anything_is_known_or_where_nothing_is_promised():
    assert full(Admission({CHAT.id: PROMISE}))[1] is None
    unpromised = Admission()
    taught(unpromised.load(CHAT.id).predictor.first_s, 10, 10)
    assert full(unpromised)[1] is None


def test_what_would_break_the_promise_is_refused_with_the_time_to_come_back():
    count, error, _ = full(admission(slope=0.1, base=0.05))
    assert count == 9  # 0.05 + 9 * 0.1 is within a second, one more is not
    assert error.status == 429
    assert error.code == "too_busy"
    assert 1 <= error.retry_after <= 60
    assert "Try again in" in error.message


def test_more_replicas_take_more():
    assert full(admission(), replicas=3)[0] == 28


def test_one_is_always_let_in():
    assert full(admission(slope=50, base=50))[0] == 1
    assert full(admission(slope=50, base=50), replicas=2)[0] == 2


def test_who_leaves_makes_room():
    made = admission()
    _, _, inside = full(made)
    inside.pop().__exit__(None, None, None)
    enter(made, inside)
    with pytest.raises(TooBusy):
        enter(made, inside)


def test_the_time_to_come_back_is_the_time_until_there_is_room():
    made = admission()
    made.load(CHAT.id).ended = 0.25
    assert full(made)[1].retry_after == pytest.approx(4, rel=0.3)


def test_batch_gives_way_to_people():
    made = admission()
    count, _, stack = full(made, AdmissionRequest(batch=True))
    assert count == 5
    enter(made, stack, AdmissionRequest())  # for them there is room still


def test_a_greedy_client_leaves_room_for_the_others():
    made = admission(slope=0.01, base=0.0)
    stack = []
    enter(made, stack, AdmissionRequest(client="quiet"))
    stack.pop().__exit__(None, None, None)
    count, error, _ = full(made, AdmissionRequest(client="greedy"))
    assert 70 <= count <= 80
    assert "share" in error.message
    for _ in range(20):
        enter(made, stack, AdmissionRequest(client="quiet"))


def test_a_client_alone_may_have_all():
    assert 97 <= full(admission(slope=0.01, base=0.0), AdmissionRequest(client="one"))[0] <= 100


def test_a_deadline_that_cannot_be_kept_is_refused_at_once():
    made = admission()
    taught(made.load(CHAT.id).predictor.token_s, 0.001, 0.02)
    stack = []
    enter(made, stack)
    with pytest.raises(TooBusy, match="deadline"):
        enter(made, stack, AdmissionRequest(deadline_s=1.0, tokens=200))
    enter(made, stack, AdmissionRequest(deadline_s=10.0, tokens=200))
    enter(made, stack, AdmissionRequest(deadline_s=1.0, tokens=5))


def test_it_learns_from_those_that_were_answered_only():
    made = Admission({CHAT.id: PROMISE})
    record = of_chat(stream=True)
    with made.admit(CHAT, 1, AdmissionRequest(), record):
        call = record.call(CHAT, "chat")
        call.first, call.last = call.called + 0.5, call.called + 1.5
        call.engine_s, call.usage = 1.0, Usage({PROMPT_TOKENS: 5, COMPLETION_TOKENS: 11})
    predictor = made.load(CHAT.id).predictor
    assert predictor.first_s.seen == predictor.token_s.seen == 1
    assert predictor.token_s.y == pytest.approx(0.1)
    for spoil in ({"code": "engine_failed"}, {"engine_s": None}):
        failed = of_chat(stream=True)
        call = failed.call(CHAT, "chat")
        call.last, call.engine_s, call.usage = 1.0, 1.0, Usage({PROMPT_TOKENS: 1, COMPLETION_TOKENS: 5})
        for name, value in spoil.items():
            setattr(failed if name == "code" else call, name, value)
        with made.admit(CHAT, 1, AdmissionRequest(), failed):
            pass
    assert predictor.first_s.seen == 1
    assert made.load(CHAT.id).in_flight == 0


def test_of_a_whole_answer_the_time_of_a_token_is_what_comes_after_the_first():
    made = Admission({CHAT.id: PROMISE})
    predictor = made.load(CHAT.id).predictor

    def answer(tokens):
        record = of_chat()
        with made.admit(CHAT, 1, AdmissionRequest(), record):
            call = record.call(CHAT, "chat")
            call.last, call.engine_s, call.usage = (
                call.called + 1.5,
                1.4,
                Usage({PROMPT_TOKENS: 5, COMPLETION_TOKENS: tokens}),
            )

    answer(4)
    assert (predictor.duration_s.seen, predictor.token_s.seen) == (1, 0)
    taught(predictor.first_s, 0.0, 1.2)
    answer(4)
    answer(1)
    assert (predictor.duration_s.seen, predictor.token_s.seen) == (3, 1)
    assert predictor.token_s.y == pytest.approx(0.1, rel=0.01)
    assert predictor.duration_s.at(1) == pytest.approx(1.5, rel=0.01)


def test_a_variant_by_name_has_the_promise_of_its_model():
    assert Admission({"m": PROMISE}).promised("m@int8") == PROMISE


def test_the_predictor_counts_tokens():
    predictor = Predictor()
    taught(predictor.first_s, 0.0, 0.5)
    taught(predictor.token_s, 0.0, 0.1)
    assert predictor.predict(1, 11).duration_s == pytest.approx(1.5)
    assert Predictor().predict(1, 11).duration_s is None


@pytest.mark.parametrize(
    ("header", "batch"),
    [
        ("u=5", True),
        ("i, u=7", True),
        ("u=3", False),
        (None, False),
        ("u=x", False),
        ("u=\xb3", False),
        ("u=", False),
        ("=5", False),
    ],
)
def test_priority_is_read_as_its_rfc_says(header, batch):
    assert is_batch(header) is batch


@pytest.mark.parametrize(
    ("peer", "told", "address"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # anybody can send a header
        ("10.0.0.2", ["198.51.100.1"], "10.0.0.2"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),  # from our HAProxy
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["192.0.2.1", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["somebody"], "127.0.0.1"),
        ("127.0.0.1", ["1.2.3.4, 5.6.7.8"], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", [], "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", [], "2001:db8:1:3::/64"),
        ("testclient", ["198.51.100.1"], "unknown"),
        (None, ["198.51.100.1"], "unknown"),
    ],
)
def test_who_shares_is_an_address_that_the_client_cannot_choose(peer, told, address):
    headers = [(b"x-medley-client", one.encode()) for one in told] + [(b"authorization", b"Bearer invented")]
    scope = {"type": "http", "headers": headers, "client": peer and (peer, 4711)}
    assert address_of(HTTPConnection(scope)) == address


def test_a_request_for_many_answers_takes_the_place_of_many():
    made, stack = admission(), []  # room for nine
    enter(made, stack, AdmissionRequest(sequences=16))  # alone it may have all
    with pytest.raises(TooBusy):
        enter(made, stack)
    stack.pop().__exit__(None, None, None)
    assert made.load(CHAT.id).in_flight == 0
    for _ in range(5):
        enter(made, stack)
    with pytest.raises(TooBusy):
        enter(made, stack, AdmissionRequest(sequences=16))
    stack.pop().__exit__(None, None, None)
    enter(made, stack, AdmissionRequest(sequences=16))  # half of the room is free


def test_many_answers_count_in_the_share_of_a_client():
    made, stack = admission(slope=0.01, base=0.0), []  # room for a hundred
    enter(made, stack, AdmissionRequest(client="quiet"))
    for _ in range(4):
        enter(made, stack, AdmissionRequest(client="greedy", sequences=16))
    with pytest.raises(TooBusy, match="address"):
        enter(made, stack, AdmissionRequest(client="greedy", sequences=16))
    enter(made, stack, AdmissionRequest(client="quiet", sequences=16))


def goodput(promises, monkeypatch, seconds=60, rate=100, capacity=50):
    """How many a second a model answers in time that shares its time among all that it has. Its clock goes from one
    arrival or end to the next. `done` is the work that who was inside from the beginning would have had by now; all ask
    for as much, so they end in the order in which they came."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = clock.perf_counter = lambda: clock.now
    for module in ("admission", "record"):
        monkeypatch.setattr(f"deployments.router.{module}.time", clock)
    made, draw, good, inside, done = Admission(promises), random.Random(1), 0, deque(), 0.0
    due = draw.expovariate(rate)
    while clock.now < seconds:
        end = clock.now + (inside[0].done - done) * len(inside) if inside else math.inf
        done += (min(due, end) - clock.now) / len(inside) if inside else 0.0
        clock.now = min(due, end)
        if end <= due:
            one = inside.popleft()
            done = one.done  # which takes the error of rounding away
            call = one.record.call(CHAT, "chat")
            call.first = call.last = clock.now
            call.engine_s, call.usage = clock.now - one.came, Usage({PROMPT_TOKENS: 1, COMPLETION_TOKENS: 1})
            one.place.__exit__(None, None, None)
            good += clock.now - one.came <= 0.5
            continue
        due += draw.expovariate(rate)
        record = of_chat(stream=True)
        place = made.admit(CHAT, 1, AdmissionRequest(), record)
        with contextlib.suppress(TooBusy):
            place.__enter__()
            inside.append(SimpleNamespace(came=clock.now, done=done + 1 / capacity, place=place, record=record))
    return good / seconds


def test_overload_keeps_its_goodput(monkeypatch):
    """Asked at twice what it can do: with admission nearly all that it could do stays good, without it nothing."""
    promise = {CHAT.id: PROMISE.model_copy(update={"time_to_first_token_s": 0.5})}
    assert goodput(promise, monkeypatch) > 0.9 * 50
    assert goodput({}, monkeypatch) < 0.1 * 50


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_long_requests_of_one_client_do_not_make_a_model_seem_slow_for_others(share):
    predictor, drawn = Predictor(), random.Random(1)
    for _ in range(200):
        read, seconds = (20_000, 5.0) if drawn.random() < share else (drawn.randint(10, 30), 0.05)
        now = time.perf_counter()
        usage = Usage({PROMPT_TOKENS: read})
        call = SimpleNamespace(usage=usage, engine_s=seconds, first=None, last=now + seconds, model="m", task=CHAT.task)
        record = SimpleNamespace(code=None, primary=call, calls=[call], model="m", stream=False)
        learn(predictor, record, 1.0, 1.0, now)
    assert predictor.duration_s.surely(1.0) < 1.0
    assert predictor.read.times(20_000) > 100
