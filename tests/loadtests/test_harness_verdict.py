"""Verdicts: true and false cases, what proves nothing, and an ill generator."""

import random

import pytest

from loadtest.bounds import least_share, most_share, needed, quantile, ratio_over_blocks
from loadtest.counters import COUNTERS
from loadtest.health import Health, examine
from loadtest.records import Record
from loadtest.targets import Targets, WrongTargets, promises
from loadtest.verdict import EXIT_OF, Exit, Outcome, judge

TARGETS = {"m": Targets({"duration_s": 1.0}, 0.95)}
WELL, ILL = Health(), Health(ill="it was late")


def answered(number, duration=0.1, **changes):
    facts = {"status": 200, "complete": True, "sent": 0.0, "last": duration, "first": duration}
    return Record(number, f"id-{number}", "embeddings", "m", **{**facts, **changes})


def sample(good, bad, **changes):
    slow = [answered(good + number, 2.0, **changes) for number in range(bad)]
    return [answered(number) for number in range(good)] + slow


@pytest.mark.parametrize(
    ("good", "bad", "outcome"),
    [
        (59, 0, Outcome.PASSED),  # what 95 % takes without a miss
        (58, 0, Outcome.INCONCLUSIVE),
        (92, 1, Outcome.PASSED),
        (58, 1, Outcome.INCONCLUSIVE),
        (990, 10, Outcome.PASSED),
        (950, 50, Outcome.INCONCLUSIVE),  # just what is promised: no sample can tell
        (900, 100, Outcome.FAILED),
        (0, 5, Outcome.FAILED),
    ],
)
def test_goodput_is_judged_by_its_bounds(good, bad, outcome):
    verdict = judge(sample(good, bad), TARGETS, WELL)
    assert verdict.outcome is outcome
    (rule,) = [rule for rule in verdict.rules if rule.rule == "goodput"]
    assert rule.value == good / (good + bad)
    if bad and outcome is not Outcome.PASSED:
        assert "duration_s" in rule.why


def test_sample_sizes_are_those_of_mlperf():
    assert [needed(0.95, 0.95, misses) for misses in (0, 1, 2, 3, 5, 10)] == [59, 93, 124, 153, 208, 336]
    assert [needed(0.99, 0.95, misses) for misses in (0, 1)] == [299, 473]


@pytest.mark.parametrize(("true", "verdicts"), [(0.99, Outcome.PASSED), (0.9, Outcome.FAILED)])
def test_verdicts_are_seldom_wrong(true, verdicts):
    """Of 300 services that are better, or worse, than what is promised."""
    draw = random.Random(4)
    found = []
    for _ in range(300):
        bad = sum(draw.random() > true for _ in range(300))
        found.append(judge(sample(300 - bad, bad), TARGETS, WELL).outcome)
    wrong = {Outcome.PASSED, Outcome.FAILED} - {verdicts}
    assert sum(one in wrong for one in found) == 0
    assert found.count(verdicts) > 200


def test_a_growing_sample_is_looked_at_with_more_care():
    assert judge(sample(60, 0), TARGETS, WELL, looks=1).outcome is Outcome.PASSED
    assert judge(sample(60, 0), TARGETS, WELL, looks=4).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"status": 0, "complete": False, "last": None, "why": "ConnectionResetError"}, "lost"),
        ({"complete": False, "why": "the stream ended without its end mark"}, "incomplete_streams"),
        ({"status": 500, "why": "500: broken"}, "server_errors"),
        ({"status": 502, "why": "502: broken"}, "server_errors"),
        ({"why": "it has no text"}, "wrong_answers"),
        ({"status": 429, "why": "429: no room"}, "refusals_without_retry_after"),
    ],
)
def test_one_fault_of_the_server_is_one_too_many_even_if_the_generator_was_ill(change, counter):
    records = [*sample(200, 0), answered(200, **change)]
    for health in (WELL, ILL):
        verdict = judge(records, TARGETS, health)
        assert verdict.outcome is Outcome.FAILED
        failed = [rule.rule for rule in verdict.rules if rule.outcome is Outcome.FAILED]
        assert failed == [counter]
    (rule,) = [rule for rule in judge(records, TARGETS, WELL).rules if rule.rule == counter]
    assert "id-200" in rule.why


def test_an_ill_generator_leaves_it_open():
    assert judge(sample(200, 0), TARGETS, ILL).outcome is Outcome.INCONCLUSIVE
    assert judge(sample(0, 200), TARGETS, ILL).outcome is Outcome.INCONCLUSIVE


def test_refusals_are_misses_unless_the_scenario_says_otherwise():
    refused = [answered(number, status=429, retry_after=1.0, why="429: no room") for number in range(100, 200)]
    assert judge([*sample(100, 0), *refused], TARGETS, WELL).outcome is Outcome.FAILED
    assert judge([*sample(100, 0), *refused], TARGETS, WELL, refusals_count=False).outcome is Outcome.PASSED


def test_who_leaves_is_not_counted():
    left = [answered(number, left=True, complete=False) for number in range(100, 200)]
    assert judge([*sample(100, 0), *left], TARGETS, WELL).outcome is Outcome.PASSED


def test_nothing_at_all_proves_nothing():
    assert judge([], TARGETS, WELL).outcome is Outcome.INCONCLUSIVE


def test_between_the_tokens_of_an_answer_of_one_there_is_no_time():
    targets = Targets({"time_per_output_token_s": 0.1, "time_to_first_token_s": 1})
    one_token = answered(1, 0.5, first=0.4, chunks=1, tokens=1)
    assert targets.miss(one_token) == ""
    assert "time_per_output_token_s" in targets.miss(answered(1, 3.0, first=0.4, chunks=9, tokens=9))


@pytest.mark.parametrize(
    ("limit", "changes", "why"),
    [
        ("time_to_first_token_s", {"first": None, "tokens": 0}, "no text of it came in a stream"),
        ("time_to_first_token_s", {"tokens": 9}, "no text of it came in a stream"),  # whole, though a stream was asked
        ("time_per_output_token_s", {"first": None, "tokens": 0}, "no text of it came in a stream"),
        ("time_per_output_token_s", {"chunks": 9, "tokens": 0}, "nobody counted its tokens"),
        ("time_to_first_audio_s", {"audio_s": 4.0}, "nothing of it came as sound"),
        ("real_time_factor", {"first_audio": 0.1}, "nobody says how many seconds of sound there were"),
    ],
)
def test_a_promise_that_a_complete_answer_cannot_be_held_against_is_broken(limit, changes, why):
    miss = Targets({limit: 100}).miss(answered(1, **changes))
    assert miss.startswith(f"{limit} was not kept: ")
    assert why in miss
    assert judge([answered(number, **changes) for number in range(60)], {"m": Targets({limit: 100})}, WELL).exit == 1


def test_exit_codes():
    assert {outcome: int(code) for outcome, code in EXIT_OF.items()} == {"passed": 0, "failed": 1, "inconclusive": 3}
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5]
    assert len(COUNTERS) == 5


def test_bounds_are_those_of_clopper_and_pearson():
    assert least_share(0, 10, 0.95) == 0
    assert most_share(10, 10, 0.95) == 1
    assert least_share(95, 100, 0.95) == pytest.approx(0.8977, abs=1e-3)
    assert most_share(95, 100, 0.95) == pytest.approx(0.9801, abs=1e-3)


def test_quantiles_are_exact():
    assert [quantile(range(1, 101), share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert quantile([7], 0.5) == 7


def test_a_ratio_over_blocks_has_an_interval_that_holds_the_truth():
    draw = random.Random(1)
    holds = 0
    for _ in range(200):
        ratios = [1.2 * draw.lognormvariate(0, 0.15) for _ in range(12)]
        _, low, high = ratio_over_blocks(ratios, 0.95)
        holds += low <= 1.2 <= high
    assert holds > 170


def test_a_generator_that_is_late_or_busy_or_sends_too_little_is_ill():
    well = [answered(number, sent=0.001) for number in range(100)]
    assert examine(well, 1.0, 0.1, 0.2).ill == ""
    late = [answered(number, sent=0.3) for number in range(5)]
    assert "300 ms late" in examine([*well, *late], 1.0, 0.1, None).ill
    assert "cores" in examine(well, 1.0, 0.9, None).ill
    assert "1 requests" in examine([*well, answered(7, sent=None)], 1.0, 0.1, None).ill
    assert examine([*well, *late], 4.0, 0.1, None).ill == ""  # of a limit of 4 s it is little


def test_promises_of_the_project_are_read(tmp_path):
    from pathlib import Path

    file = Path(__file__).parents[2] / "slo.yaml"
    assert promises(file, "cpu").of("chat", "smollm2-135m-instruct").limits["time_to_first_token_s"] > 0
    with pytest.raises(WrongTargets, match="no profile"):
        promises(file, "moon")
    with pytest.raises(WrongTargets, match="cannot be read"):
        promises(tmp_path / "none.yaml", "cpu")


def test_a_task_without_a_line_of_its_own_has_the_default_promise(tmp_path):
    file = tmp_path / "slo.yaml"
    file.write_text(
        "profiles: {cpu: {default: {duration_s: 60, good: 0.95, availability: 0.999},"
        " tasks: {chat: {time_to_first_token_s: 2, good: 0.99}}, models: {m: {duration_s: 90}}}}"
    )
    found = promises(file, "cpu")
    assert found.of("speech", "x") == Targets({"duration_s": 60.0}, 0.95)
    assert found.of("chat", "x") == Targets({"time_to_first_token_s": 2.0}, 0.99)  # wholly its own
    assert found.of("speech", "m@int8") == Targets({"duration_s": 90.0}, 0.95)


def test_sound_is_judged_by_its_own_limits():
    """An answer of 4 s of sound, the first of it after half a second and all of it after two."""
    record = answered(1, first=0.4, first_audio=0.5, last=2.0, audio_s=4.0)
    assert record.figures() == {"duration_s": 2.0, "real_time_factor": 0.5, "time_to_first_audio_s": 0.5}
    kept = Targets({"time_to_first_audio_s": 0.6, "real_time_factor": 0.6})
    assert not kept.miss(record)
    assert Targets({"real_time_factor": 0.4}).miss(record) == "real_time_factor 0.5 over 0.4"
    assert Targets({"time_to_first_audio_s": 0.4}).miss(record) == "time_to_first_audio_s 0.5 over 0.4"


@pytest.mark.parametrize("limit", ['"2"', "yes", ".nan", ".inf", "2026-11-28"])
def test_a_promise_that_is_no_number_is_refused(tmp_path, limit):
    file = tmp_path / "slo.yaml"
    file.write_text(f"profiles: {{cpu: {{tasks: {{chat: {{duration_s: {limit}, good: 0.9}}}}}}}}\n")
    with pytest.raises(WrongTargets, match="is no number"):
        promises(file, "cpu").of("chat", "x")


def test_what_must_never_happen_is_said_in_the_file_of_promises(tmp_path):
    file = tmp_path / "slo.yaml"
    profiles = "profiles: {cpu: {tasks: {chat: {good: 0.9}}}}\n"
    file.write_text(profiles)
    assert promises(file, "cpu").never == tuple(COUNTERS)
    with pytest.raises(WrongTargets, match="promises nothing for weather"):
        promises(file, "cpu").of("weather", "x")
    file.write_text("never: [lost, server_errors]\n" + profiles)
    assert promises(file, "cpu").never == ("lost", "server_errors")
    file.write_text("never: [lst]\n" + profiles)
    with pytest.raises(WrongTargets, match="lst is not among lost"):
        promises(file, "cpu")
