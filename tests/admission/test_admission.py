"""Who is let in, who is refused and with what, and what a replica tells of its work. The clock is the test's."""

import contextlib
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.servers.admission import ACTIVE_S, DEMAND_S, DOUBT, MOST_SHARED, Admission
from deployments.servers.calls import Terms
from deployments.servers.forecast import Batches, InTurn, Stepwise
from deployments.servers.pace import Pace, Work
from models.errors import BeyondPromise, TooBusy

STEPWISE = Stepwise(chunk=128, readers=2)
# A step takes 20 ms, and 4 ms for each that writes; 128 tokens are read in 384 ms.
MACHINE = (0.02, 0.004, 0.003)
SHORT, LONG = Work(20, 50), Work(2000, 50)


def made(schedule=STEPWISE, machine=MACHINE) -> Admission:
    """The admission of a replica that has measured itself."""
    admission = Admission(Pace(), schedule)
    for did in 4 * ((1, 0, 64), (1, 1, 0), (1, 8, 0)):
        admission.did(float(np.dot(machine, did)), *did, now=0.0)
    return admission


def fill(admission, terms, work=SHORT, now=0.0, most=500):
    """Let in as many as there is room for. Returns them and the refusal of the next one."""
    jobs = []
    while len(jobs) < most:
        try:
            jobs.append(admission.enter(work, terms, now, shows=True))
        except TooBusy as error:
            return jobs, error
    return jobs, None


def begun(admission, count, terms, work=SHORT):
    """So many streams, of which each has its first piece."""
    jobs = [admission.enter(work, Terms(**{**terms, "sure": True}), 0.0, shows=True) for _ in range(count)]
    for job in jobs:
        job.terms = Terms(**terms)
        admission.wrote(job, 1, 0.0)
    return jobs


def sizes_of_forecasts(monkeypatch) -> list[int]:
    """How many requests each forecast is of, from now on."""
    sizes, times = [], Stepwise.times
    monkeypatch.setattr(
        Stepwise, "times", lambda self, pace, left, *since: sizes.append(len(left)) or times(self, pace, left, *since)
    )
    return sizes


@pytest.mark.parametrize(
    ("limit", "seconds"), [("first_s", 1.0), ("piece_s", 0.08), ("whole_s", 5.0), ("deadline_s", 5.0)]
)
def test_as_many_are_let_in_as_keep_their_promise(limit, seconds):
    admission, terms = made(), Terms(**{limit: seconds})
    jobs, error = fill(admission, terms)
    assert 2 < len(jobs) < 40
    assert (error.status, error.code) == (429, "too_busy")
    assert error.retry_after >= 1
    expected_s = getattr(admission.times(SHORT, Terms(), 0.0), limit.replace("deadline", "whole"))
    assert expected_s == pytest.approx(seconds, rel=0.35)
    assert len(fill(made(), Terms(**{limit: 2 * seconds}))[0]) > len(jobs)


def test_work_counts_and_not_requests():
    terms = Terms(first_s=4.0, piece_s=0.2)
    short, long = (len(fill(made(), terms, work)[0]) for work in (Work(20, 50), Work(400, 50)))
    wide = len(fill(made(), terms, Work(20, 50, width=8))[0])
    assert short > 3 * long
    assert short > 3 * wide
    assert wide > 0


def test_a_long_prompt_that_would_make_streams_stutter_is_refused_and_a_short_one_let_in():
    admission, patient_reader = made(), Terms(first_s=60.0, whole_s=600.0)
    begun(admission, 16, {"piece_s": 0.12})
    with pytest.raises(TooBusy):
        admission.enter(LONG, patient_reader, 0.0)
    admission.enter(SHORT, patient_reader, 0.0)


def test_an_idle_replica_is_kept_for_one_that_is_due_if_both_together_do_not_fit():
    """Else somebody who came by chance a moment earlier would have its place."""
    admission, long = made(), Work(1000, 20)
    terms = Terms(first_s=admission.alone(long).first_s / 0.8, ahead_s=admission.cost_s(long))
    with pytest.raises(TooBusy) as caught:
        admission.enter(long, terms, 0.0)
    assert caught.value.room_s == 1
    assert caught.value.alone == pytest.approx(0.8)
    admission.enter(long, replace(terms, returns=True), 0.0)
    # What is small is in nobody's way, however much is due.
    made(replace(STEPWISE, most=4)).enter(SHORT, replace(terms, ahead_s=5 * terms.ahead_s), 0.0)


def test_who_would_be_late_anyway_keeps_nobody_out():
    """Its promise is broken with and without the newcomer."""
    admission = made()
    begun(admission, 4, {"piece_s": 0.01})
    admission.enter(SHORT, Terms(first_s=5.0), 0.0)


def test_everybody_is_let_in_where_nothing_is_promised():
    assert fill(made(), Terms(), most=100)[1] is None


def test_one_is_always_let_in():
    """Whatever its own deadline: nobody else is there, so it is tried."""
    admission = made()
    job = admission.enter(SHORT, Terms(first_s=2.5, deadline_s=0.01), 0.0)
    with pytest.raises(BeyondPromise, match=r"0\.01 s you wait"):
        admission.enter(SHORT, Terms(first_s=2.5, deadline_s=0.01), 0.0)
    admission.leave(job, 1.0)
    admission.enter(SHORT, Terms(first_s=2.5, deadline_s=0.01), 1.0)


@pytest.mark.parametrize(
    ("work", "terms", "what"),
    [
        (Work(3000, 50), {"first_s": 2.5}, "beginning"),
        (Work(20, 50, width=16), {"piece_s": 0.05}, "each piece"),
        (Work(20, 5000), {"whole_s": 60.0}, "60 s are promised"),
    ],
)
def test_what_not_even_an_idle_replica_can_keep_is_told_apart_from_busy(work, terms, what):
    admission = made()
    for busy in (False, True):
        with pytest.raises(BeyondPromise, match=what) as caught:
            admission.enter(work, Terms(**terms), 1.0)
        assert (caught.value.status, caught.value.retry_after) == (422, None)
        if not busy:
            admission.enter(SHORT, Terms(first_s=2.5), 1.0)
    made().enter(work, Terms(**terms, patient=True), 1.0)  # a batch job has its own deadline only


def test_what_was_beyond_the_promise_is_tried_again_after_many():
    """Otherwise a replica that was slow for a minute would never find out that it is not."""
    admission, terms, work = made(), Terms(first_s=2.5), Work(3000, 50)
    later = admission.alone(work).whole_s + 1
    for _ in range(DOUBT):
        with pytest.raises(BeyondPromise):
            admission.enter(work, terms, later)
    admission.enter(work, terms, later)
    with pytest.raises(BeyondPromise):
        admission.enter(work, terms, later)


def test_batch_jobs_leave_room_for_people():
    terms, job = Terms(first_s=1.0, piece_s=0.1), Terms(first_s=1.0, piece_s=0.1, patient=True)
    admission = made()
    people, _ = fill(admission, terms)
    with pytest.raises(TooBusy):
        admission.enter(SHORT, job, 0.0)
    admission = made()
    admission.enter(SHORT, terms, 0.0)
    jobs, error = fill(admission, job)
    assert error is not None
    assert 0 < len(jobs) < len(people) - 1
    assert fill(admission, terms)[0]


def test_a_batch_job_waits_for_its_own_deadline_only():
    jobs, error = fill(made(), Terms(first_s=1.0, whole_s=5.0, patient=True), most=50)
    assert error is None or len(jobs) > 20
    admission = made()
    assert len(fill(admission, Terms(deadline_s=30.0, patient=True), Work(200, 50))[0]) < 50


def test_a_greedy_client_leaves_the_others_their_share():
    admission = made()
    quiet, greedy = (Terms(client=name, first_s=3.0) for name in ("quiet", "greedy"))
    admission.leave(admission.enter(SHORT, quiet, 0.0), 0.0)
    alone = len(fill(made(), greedy)[0])
    jobs, error = fill(admission, greedy)
    assert "share" in error.message
    assert len(jobs) < 0.85 * alone
    assert len(fill(admission, quiet)[0]) >= 0.1 * alone


def test_as_long_as_there_is_room_a_client_may_have_more_than_its_share():
    admission = made()
    for name in range(20):
        admission.leave(admission.enter(SHORT, Terms(client=f"quiet {name}", first_s=3.0), 0.0), 0.0)
    greedy = Terms(client="greedy", first_s=3.0)
    assert len(fill(admission, greedy)[0]) > 0.4 * len(fill(made(), greedy)[0])


def test_shares_are_of_work():
    admission = made()
    for name in ("few", "many"):
        admission.leave(admission.enter(SHORT, Terms(client=name, first_s=3.0), 0.0), 0.0)
    few, _ = fill(admission, Terms(client="few", first_s=3.0), Work(200, 50))
    many, _ = fill(admission, Terms(client="many", first_s=3.0), SHORT)
    assert len(many) >= len(few)


def test_a_share_is_of_what_fits_and_not_of_what_a_tight_promise_leaves():
    """A batch takes most of the promise however few texts are in it. A hundred clients of one text each fit in one
    batch, so a client may have several."""
    admission, terms = made(Batches(64, 4096), (0.04, 0.0001, 0.0)), Terms(whole_s=0.15)
    for name in range(10):
        admission.leave(admission.enter(Work(steps=10), replace(terms, client=f"quiet {name}"), 0.0), 0.0)
    jobs, error = fill(admission, replace(terms, client="greedy"), Work(steps=10))
    assert 3 < len(jobs) < 64
    assert "share" in error.message
    assert len(fill(admission, replace(terms, client="quiet 1"), Work(steps=10))[0]) > 3


def test_of_many_clients_with_much_inside_a_share_costs_little_to_compute(monkeypatch):
    """Each call of the forecast is by all requests at once, so its size is what counts."""
    admission, terms = made(), Terms(client="greedy", first_s=3.0)
    for name in range(1000):
        admission.leave(admission.enter(SHORT, replace(terms, client=str(name)), 0.0), 0.0)
    sizes = sizes_of_forecasts(monkeypatch)
    jobs, error = fill(admission, terms)
    assert "share" in error.message
    assert max(sizes) <= MOST_SHARED + len(jobs) + 1


def test_a_client_that_comes_when_it_was_told_has_no_share_to_keep():
    admission = made()
    admission.leave(admission.enter(SHORT, Terms(client="quiet", first_s=3.0), 0.0), 0.0)
    _, error = fill(admission, Terms(client="greedy", first_s=3.0))
    assert "share" in error.message
    admission.enter(SHORT, Terms(client="greedy", first_s=3.0, returns=True), 0.0)


def test_a_client_that_has_left_counts_for_a_while():
    admission, greedy = made(), Terms(client="greedy", first_s=3.0)
    admission.leave(admission.enter(SHORT, Terms(client="quiet", first_s=3.0), 0.0), 0.0)
    assert "share" in fill(admission, greedy)[1].message
    admission = made()
    admission.leave(admission.enter(SHORT, Terms(client="quiet", first_s=3.0), 0.0), 0.0)
    assert "share" not in fill(admission, greedy, now=ACTIVE_S)[1].message
    assert list(admission.seen) == ["greedy"]


def test_who_leaves_makes_room():
    admission, terms = made(), Terms(first_s=1.0)
    jobs, _ = fill(admission, terms)
    admission.leave(jobs.pop(), 0.0)
    admission.enter(SHORT, terms, 0.0)
    with pytest.raises(TooBusy):
        admission.enter(SHORT, terms, 0.0)


def test_the_time_to_come_back_is_the_time_until_there_is_room():
    """One after the other, each takes two seconds; nearly six are promised, and some of that is reserve."""
    admission, terms = made(InTurn(), (2.0, 0.0, 0.0)), Terms(whole_s=5.9)
    jobs, error = fill(admission, terms)
    assert [len(jobs), error.retry_after] == [2, pytest.approx(2.0)]
    admission.leave(jobs[0], 2.0, kept=True)
    admission.enter(SHORT, terms, 2.0)


def test_that_time_costs_a_look_at_each_second_and_not_at_each_who_is_inside(monkeypatch):
    """Sixty-four end within two seconds; what is told is whole seconds."""
    admission = made()
    begun(admission, 64, {"first_s": 1.0}, Work(20, 5))
    for number, job in enumerate(admission.inside):
        job.work = replace(job.work, steps=2.0 + number / 16)
    sizes = sizes_of_forecasts(monkeypatch)
    _, error = fill(admission, Terms(first_s=0.3))
    assert 1 <= error.retry_after <= 2
    # As it is, with the newcomer, and at most one of two seconds.
    assert sum(size > 1 for size in sizes) <= 3


def test_what_it_waited_before_is_over():
    admission = made(InTurn(), (2.0, 0.0, 0.0))
    admission.enter(SHORT, Terms(whole_s=6.0), 0.0)
    with pytest.raises(TooBusy):
        admission.enter(SHORT, Terms(whole_s=6.0, waited_s=2.0), 0.0)
    admission.enter(SHORT, Terms(whole_s=6.0), 0.0)


def test_room_is_kept_for_those_who_were_told_to_come_now():
    terms = Terms(first_s=1.0)
    admission = made()
    jobs, _ = fill(admission, terms)
    admission.leave(jobs.pop(), 0.0)
    cost_s = admission.cost_s(SHORT)
    with pytest.raises(TooBusy):
        admission.enter(SHORT, Terms(first_s=1.0, ahead_s=2 * cost_s), 0.0)
    admission.enter(SHORT, Terms(first_s=1.0, ahead_s=2 * cost_s, returns=True), 0.0)


def test_who_was_let_in_before_is_let_in_again():
    admission = made()
    fill(admission, Terms(first_s=1.0))
    admission.enter(LONG, Terms(first_s=1.0, sure=True), 0.0)


def test_an_unknown_pace_lets_in_twice_as_many_as_were_answered_together():
    admission, terms = Admission(Pace(), STEPWISE), Terms(first_s=1.0)
    jobs, error = fill(admission, terms)
    assert [len(jobs), error.retry_after] == [2, 1.0]
    admission.leave(jobs[0], 1.0)  # not answered
    assert len(fill(admission, terms)[0]) == 1
    admission.leave(jobs[1], 1.0, kept=True)
    assert len(fill(admission, terms)[0]) == 3


def test_while_the_engine_stands_still_more_is_predicted():
    """No piece for twenty seconds: nobody would be answered in less, and nothing has told of it yet."""
    admission, terms = made(), Terms(first_s=2.5)
    begun(admission, 2, {})
    before = admission.times(SHORT, terms, 0.1).first_s
    assert admission.times(SHORT, terms, 20.0).first_s > before + 19
    with pytest.raises(TooBusy):
        admission.enter(SHORT, terms, 20.0)
    admission.did(20.0, 1, 2, 0, 20.0)  # it goes on
    admission.enter(SHORT, terms, 20.0)


def test_who_may_wait_long_leaves_room_for_who_may_not():
    """Whole answers are promised in two minutes, the beginnings of streams in two seconds."""
    admission, stream, whole, work = made(), Terms(first_s=2.0), Terms(whole_s=120.0), Work(100, 50)
    assert len(fill(made(), whole, work, most=50)[0]) == 50
    admission.leave(admission.enter(SHORT, stream, 0.0), 0.0, kept=True)
    assert 1 < len(fill(admission, whole, work, most=50)[0]) < 10
    admission.enter(SHORT, stream, 0.0)
    assert len(fill(admission, whole, work, now=ACTIVE_S, most=50)[0]) == 50  # no stream comes any more


@pytest.mark.parametrize(
    ("work", "terms"), [(LONG, Terms(first_s=2.0)), (SHORT, Terms(first_s=2.0, overhead_s=3.0))], ids=["large", "far"]
)
def test_no_room_is_kept_for_a_stream_whose_promise_cannot_be_kept_even_alone(work, terms):
    """Because there is too much to read, or because calls took long on their way lately."""
    admission, whole = made(), Terms(whole_s=120.0)
    with contextlib.suppress(BeyondPromise):
        admission.leave(admission.enter(work, terms, 0.0), 0.0)
    assert admission.streamed == (work, terms)
    admission.enter(SHORT, whole, 0.0)
    assert len(fill(admission, whole, most=10)[0]) == 10
    admission.enter(SHORT, replace(whole, ahead_s=1.0), 0.0)


def test_room_is_kept_for_a_stream_that_may_come_before_the_newcomer_is_read():
    """Not for one that comes once in ten seconds, while a prompt is read in one: it would seldom be used."""
    stream, whole, work = Terms(first_s=1.6), Terms(whole_s=120.0), Work(300, 50)
    for seldom, kept in ((0.3, True), (10.0, False)):
        admission, now = made(), 0.0
        for _ in range(10):
            now += seldom
            admission.leave(admission.enter(SHORT, stream, now), now, kept=True)
        assert (len(fill(admission, whole, work, now=now + 3, most=3)[0]) < 3) == kept


def test_a_pace_of_which_little_was_seen_is_trusted_less():
    few, more = Admission(Pace(), STEPWISE), Admission(Pace(), STEPWISE)
    for admission, times in ((few, 1), (more, 100)):
        for did in times * ((1, 0, 64), (1, 1, 0), (1, 8, 0)):
            admission.did(float(np.dot(MACHINE, did)), *did, now=0.0)
    more.pace.noise, terms = few.pace.noise, Terms(whole_s=10.0)
    assert few.pace.state == pytest.approx(more.pace.state, rel=1e-3)
    assert 3 < len(fill(few, terms)[0]) < len(fill(more, terms)[0])


def test_others_are_expected_to_come_as_they_did():
    """For a minute steps took a fifth of a second each. Of one who comes then, all others have just been answered."""
    admission = made()
    alone = admission.alone(SHORT)
    for step in range(300):
        admission.did(0.2, 1, 30, 20, step / 5)
    busy, later = (admission.times(SHORT, Terms(), now) for now in (60.0, 62.0))
    assert busy.piece_s == pytest.approx(0.2, rel=0.05)
    assert alone.piece_s < later.piece_s < 0.6 * busy.piece_s
    assert admission.times(SHORT, Terms(), 600.0).whole_s == pytest.approx(admission.alone(SHORT).whole_s, rel=0.01)


def test_an_idle_engine_stands_still_for_no_reason():
    admission = made()
    admission.enter(SHORT, Terms(first_s=2.5), 1e6)
    admission.enter(SHORT, Terms(first_s=2.5), 1e6)


def test_what_was_done_is_not_to_be_done_again():
    """Of a whole answer nothing shows before its end; the engine's steps tell how far it is."""
    terms = Terms(whole_s=100.0)
    seen, hidden = made(), made()
    for admission, shows in ((seen, True), (hidden, False)):
        job = admission.enter(Work(128, 50), terms, 0.0, shows)
        for step in range(20):
            admission.did(0.1, 1, 1, 0, step / 10)
            if shows and step:
                admission.wrote(job, 1, step / 10)
    assert seen.inside_s(2.0) == pytest.approx(hidden.inside_s(2.0), rel=0.1)
    assert hidden.inside_s(2.0) < 0.7 * hidden.cost_s(Work(128, 50))
    in_batches = made(Batches(64, 512), (0.01, 0.001, 0.0))
    job = in_batches.enter(Work(steps=3000, items=100), terms, 0.0)
    whole_s = in_batches.inside_s(2.0)
    job.left = lambda: (25, 0)
    assert in_batches.inside_s(2.0) == pytest.approx(whole_s / 4, rel=0.05)


def test_those_who_are_done_and_have_not_left_take_no_time():
    """All of its items are answered, too late, and nobody else is inside."""
    admission = made(Batches(64, 512), (0.01, 0.001, 0.0))
    job = admission.enter(Work(steps=100, items=10), Terms(whole_s=1.0), 0.0)
    job.left = lambda: (0, 0)
    admission.enter(Work(steps=100, items=10), Terms(whole_s=10.0), 1.5)


def test_demand_is_what_was_asked_each_request_once():
    """Two were let in, two refused, and one of these came again."""
    admission = made(InTurn(), (2.0, 0.0, 0.0))
    for again in (False, False, False, False, True):
        with contextlib.suppress(TooBusy):
            admission.enter(SHORT, Terms(whole_s=6.0, again=again), 0.0)
    assert admission.demanded(0.0) == {
        "asked": pytest.approx(4 * 2.0 / DEMAND_S),
        "inside_s": pytest.approx(4.0),
        "pending_s": 0.0,
        "alone_s": pytest.approx(2.0),
    }
    assert admission.demanded(DEMAND_S)["asked"] == pytest.approx(8.0 / DEMAND_S / math.e)


def test_demand_adds_up_to_the_replicas_that_it_takes():
    """Every second work for two and a half seconds, for half a minute."""
    admission, terms = made(InTurn(), (0.25, 0.0, 0.0)), Terms(whole_s=5.0)
    for tenth in range(300):
        admission.leave(admission.enter(SHORT, terms, tenth / 10), tenth / 10)
    assert admission.demanded(30.0)["asked"] == pytest.approx(2.5, rel=0.05)


def test_routers_tell_what_they_expect_back():
    admission = made()
    for router, seconds, now in (("a", 9.0, 0.0), ("a", 3.0, 1.0), ("b", 4.0, 2.0)):
        admission.leave(admission.enter(SHORT, Terms(router=router, told_s=seconds), now), now)
    assert [admission.told_s(now) for now in (2.0, 1.5 + ACTIVE_S, 3.0 + ACTIVE_S)] == [7.0, 4.0, 0.0]


def test_an_estimate_says_what_would_become_of_a_request_and_changes_nothing():
    admission, terms = made(), Terms(client="a", first_s=1.0, router="r", told_s=5.0)
    jobs, _ = fill(admission, terms)
    before = copy.deepcopy({name: value for name, value in vars(admission).items() if name != "inside"})
    found = admission.estimate(SHORT, Terms(client="b", first_s=1.0, router="s", told_s=9.0), 0.5)
    beyond = admission.estimate(Work(9000, 5), terms, 0.5)
    admission.leave(jobs[-1], 0.0)
    assert found.refused is not None
    assert found.refused.code == "too_busy"
    assert beyond.refused is not None
    assert beyond.refused.code == "beyond_promise"
    assert found.inside == len(jobs)
    assert found.alone is not None
    assert found.now is not None
    assert found.alone.first_s < found.now.first_s
    assert found.work_s == admission.cost_s(SHORT)
    admission.inside.append(jobs[-1])
    after = {name: value for name, value in vars(admission).items() if name != "inside"}
    for name in ("demand", "told", "seen", "usual", "good", "steps"):
        assert before[name] == after[name], name
    unknown = Admission(Pace(), STEPWISE).estimate(SHORT, terms, 0.0)
    assert (unknown.refused, unknown.now, unknown.alone, unknown.work_s, unknown.observations) == (None,) * 4 + (0,)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("enter", "leave", "step", "write")),
        st.integers(0, 300).map(lambda tenths: tenths / 10),
        st.builds(
            Terms,
            client=st.sampled_from(("a", "b", "c")),
            first_s=st.sampled_from((0.5, 2.5, math.inf)),
            deadline_s=st.sampled_from((3.0, math.inf)),
            patient=st.booleans(),
            returns=st.booleans(),
            ahead_s=st.sampled_from((0.0, 1.0, 1e6)),
            waited_s=st.sampled_from((0.0, 1.0, 100.0)),
        ),
        st.builds(
            Work, read=st.floats(0, 1e4), steps=st.floats(1, 1e3), width=st.floats(0.1, 16), items=st.integers(1, 99)
        ),
    ),
    max_size=40,
)


@given(EVENTS, st.sampled_from((STEPWISE, Batches(64, 512), InTurn())))
def test_whatever_happens_the_books_balance(events, schedule):
    admission, jobs, refusals, now = made(schedule), [], [], 0.0
    for event, later, terms, work in events:
        now += later
        if event == "enter":
            try:
                jobs.append(admission.enter(work, terms, now, shows=later > 1))
            except (TooBusy, BeyondPromise) as error:
                refusals.append(error)
        elif event == "step":
            admission.did(later, 1, work.width, work.read, now)
        elif jobs and event == "write":
            admission.wrote(jobs[0], 1, now)
        elif jobs:
            admission.leave(jobs.pop(0), now, kept=True)
        assert all(0 <= value < math.inf for value in admission.demanded(now).values())
    assert all(error.code == "beyond_promise" or 1 <= error.retry_after < math.inf for error in refusals)
    assert admission.inside == jobs
    while jobs:
        admission.leave(jobs.pop(), now)
    assert admission.inside_s(now) == 0
