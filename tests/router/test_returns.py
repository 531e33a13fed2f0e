"""Requests that were refused: when they may come again, what is kept for them, and what is learnt of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.router import returns
from deployments.router.returns import LONGEST_S, SHARE, USED, Returns, in_time, worth_waiting
from deployments.servers.calls import Terms
from models.errors import TooBusy

ONE, OTHER = b"one", b"other"


def busy(*, work_s=1.0, room_s=0.0, rate=1.0, alone=0.0) -> TooBusy:
    error = TooBusy("is busy", None, 1.0)
    error.work_s, error.room_s, error.rate, error.alone = work_s, room_s, rate, alone
    return error


def told(table, digest=ONE, *, now=0.0, replicas=1, **says):
    return table.refused(digest, busy(**says), replicas, now)


def all_come() -> Returns:
    """A table in which everybody is known to come again."""
    return Returns(share=1.0)


def test_retry_after_is_the_turn_behind_those_that_came_before():
    """Each has two seconds of work, of which the replica does one in a second, and some of it is left to chance."""
    table = all_come()
    turns = [1 + math.ceil(number * 2.0 / USED) for number in range(5)]
    assert [told(table, bytes([number]), work_s=2.0) for number in range(5)] == turns
    assert [told(all_come(), work_s=2.0, room_s=seconds) for seconds in (0.2, 3.2, 1e9)] == [1, 4, LONGEST_S]


def test_two_replicas_are_through_in_half_the_time():
    table = all_come()
    turns = [1 + math.ceil(number / USED) for number in range(5)]
    assert [told(table, bytes([number]), work_s=2.0, replicas=2) for number in range(5)] == turns


def test_no_second_gets_more_than_a_replica_does_in_it():
    """Twenty are refused at once, and room is there after ten seconds: they do not all come then."""
    table = all_come()
    seconds = [told(table, bytes([number]), work_s=USED / 2, room_s=10.0) for number in range(20)]
    assert seconds == sorted([*range(10, 20)] * 2)
    assert told(table, b"small", work_s=USED / 4) == 1


def test_nobody_gets_a_turn_that_is_not_over_when_the_next_one_is_due():
    """Six seconds of work are due in ten seconds, and one second of it is done in a second. Before that is time for two
    seconds of work, but not for eight."""
    table = all_come()
    rate = 1 / USED
    assert told(table, bytes([1]), work_s=6.0, room_s=10.0, rate=rate) == 10
    assert told(table, bytes([2]), work_s=8.0, room_s=3.0, rate=rate) == 16
    assert told(table, bytes([3]), work_s=2.0, room_s=3.0, rate=rate) == 3
    assert told(table, bytes([4]), work_s=5.0, room_s=3.0, rate=rate) == 5
    assert told(table, bytes([5]), work_s=0.5, room_s=3.0, rate=rate) == 24


@pytest.mark.parametrize(("alone", "second"), [(0.3, 5), (0.5, 5), (0.75, 9), (0.95, 21), (1.1, 21)])
def test_who_hardly_finds_room_has_its_turn_where_less_is_done(alone, second):
    """The first takes two seconds, of which half a second is done in a second, or as much as it leaves to others."""
    table = all_come()
    assert told(table, ONE, work_s=2.0, alone=alone) == 1
    assert told(table, OTHER, work_s=2.0, alone=alone) == second


@pytest.mark.parametrize(
    ("alone", "room_s", "waits"), [(0.1, 0.5, True), (0.1, 0.7, False), (0.8, 0.1, True), (0.8, 0.2, False)]
)
def test_who_comes_in_its_turn_waits_only_if_it_can_be_answered_in_time_then(alone, room_s, waits):
    terms = Terms(first_s=1.0, whole_s=60.0, waited_s=0.05)
    assert worth_waiting(terms, busy(alone=alone, room_s=room_s)) is waits


def test_what_is_not_expected_back_holds_nobody_up():
    table = Returns(share=0.05)
    assert [told(table, bytes([number]), work_s=2.0) for number in range(5)] == [1] * 5


@pytest.mark.parametrize(("seconds", "timely"), [(1.0, False), (4.4, False), (4.5, True), (5.0, True), (6.9, True)])
def test_who_comes_when_told_to_comes_in_time(seconds, timely):
    table = Returns()
    assert told(table, room_s=5.0) == 5
    turn = table.comes(ONE, seconds)
    assert turn is not None
    assert in_time(turn, seconds) is timely


def test_equal_bodies_are_counted_one_by_one():
    table = Returns()
    told(table)
    told(table)
    told(table, OTHER)
    assert table.work_s == 3
    assert [table.comes(ONE, 1.0) is not None for _ in range(3)] == [True, True, False]
    assert table.work_s == 1
    assert table.comes(b"never seen", 1.0) is None
    assert table.comes(OTHER, 1.0)
    assert not table


def test_the_share_that_comes_again_is_learnt():
    coming, staying = Returns(), Returns()
    for second in range(200):
        for table in (coming, staying):
            told(table, now=second)
        assert coming.comes(ONE, second + 1)
    assert coming.share > 0.99
    assert staying.share < 0.01
    assert Returns().share == SHARE


def test_nothing_is_kept_for_clients_that_never_come_back():
    """A flood of ten a second, for a minute."""
    table, kept = Returns(), []
    for tenth in range(600):
        now = tenth / 10
        told(table, tenth.to_bytes(2, "big"), now=now)
        kept.append((table.pending_s(now), table.ahead_s(now)))
    assert max(kept[-100:]) < (0.1, 0.1)
    assert told(table, now=60.0) == 1


def test_room_is_kept_for_those_who_come_about_now():
    table = all_come()
    told(table, work_s=3.0, room_s=20.0)
    told(table, OTHER, work_s=1.0, room_s=40.0)
    assert [table.ahead_s(now) for now in (0.0, 17.0, 18.0, 20.0, 21.0, 39.0)] == [0, 0, 3, 3, 3, 1]
    assert [table.pending_s(now) for now in (0.0, 20.0)] == [4, 4]
    table.comes(ONE, 20.0)
    assert table.ahead_s(20.0) == 0
    assert table.pending_s(20.0) == 1


def test_what_does_not_come_is_given_up():
    table = all_come()
    told(table, work_s=3.0, room_s=20.0)
    assert table.pending_s(24.9) == 3
    assert table.pending_s(25.1) == 0
    assert table.comes(ONE, 25.2) is None
    assert table.share < 1
    assert (table.turns, table.due) == ({}, {})
    assert not table.order


def test_a_table_that_is_full_still_tells_when_to_come(monkeypatch):
    monkeypatch.setattr(returns, "MOST", 10)
    table = all_come()
    seconds = [told(table, bytes([number])) for number in range(20)]
    assert seconds[9:] == [1 + math.ceil(9 / USED), *[1 + math.ceil(10 / USED)] * 10]
    assert len(table.order) == 10
    assert table.work_s == 10
    assert told(table, b"later", now=100.0) == 1


def test_a_long_turn_keeps_nobody_elses_work():
    table = all_come()
    told(table, b"long", room_s=500.0)
    told(table, work_s=5.0)
    assert table.pending_s(10.0) <= 1


@given(
    st.lists(
        st.tuples(st.sampled_from((ONE, OTHER, b"third")), st.booleans(), st.floats(0, 50), st.floats(0, 100)),
        max_size=60,
    )
)
def test_the_sums_are_those_of_the_turns_that_are_left(events):
    table, now = Returns(), 0.0
    for digest, comes, work_s, later in events:
        now += later
        if comes:
            table.comes(digest, now)
        else:
            assert returns.SHORTEST_S <= told(table, digest, work_s=work_s, room_s=later, now=now) <= LONGEST_S
        assert 0 <= table.share <= 1
    table.forget(now)
    left = [turn for waiting in table.turns.values() for turn in waiting]
    assert table.work_s == pytest.approx(math.fsum(turn.work_s for turn in left), abs=1e-6)
    assert sum(table.due.values()) == sum(round(1000 * turn.work_s) for turn in left)
    assert all(turn.until > now for turn in left)


def pass_on(giver: Returns, taker: Returns, now: float) -> None:
    for notice in giver.news:
        taker.heard(notice, now)
    giver.news.clear()


def test_who_was_refused_by_one_router_has_a_turn_at_the_others():
    mine, other = all_come(), all_come()
    assert told(mine, work_s=1.0, room_s=3.0) == 3
    pass_on(mine, other, 0.2)
    assert [table.ahead_s(1.5) for table in (mine, other)] == [1, 1]
    assert [table.pending_s(1.5) for table in (mine, other)] == [1, 0]  # each tells its own, and replicas add
    assert told(other, OTHER, work_s=1.0, room_s=3.0, now=1.0) == 4  # the third second is given away
    pass_on(other, mine, 1.2)
    turn = other.comes(ONE, 3.1)
    assert turn is not None
    assert in_time(turn, 3.1)
    pass_on(other, mine, 3.2)
    assert [table.comes(ONE, 3.3) for table in (mine, other)] == [None, None]
    assert [table.pending_s(3.3) for table in (mine, other)] == [0, 1]
    assert mine.share == other.share


def test_notices_that_nobody_takes_are_not_kept_for_ever(monkeypatch):
    table = Returns()
    for number in range(2 * returns.MOST):
        told(table, number.to_bytes(4, "big"), now=number / 10)
    assert len(table.news) <= returns.MOST
