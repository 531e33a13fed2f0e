"""The harness against servers whose delays are known, in virtual time: what it sends, times, counts and concludes.

`test_real_locust.py` shows the same of processes in real time, with an example of each kind."""

import math
import re
from collections import Counter, defaultdict
from itertools import pairwise

import gevent
import pytest
from fake_server import CARDS, RERANKING, SPEECH
from runs import CHAT, EMBEDDINGS, TASKS, at
from samples import exponential, kstest

from loadtest.counters import COUNTERS

EXACT = pytest.approx
PICTURES = ["images", "upscaling", "styles"]
ALL = {"parts": [{"task": task, "options": {"max_tokens": 8} if task == "chat" else {}} for task in TASKS]}


def gaps(moments):
    return [after - before for before, after in zip([0.0, *moments], moments, strict=False)]


def counts(run):
    return {name: run.rule(name)["value"] for name in COUNTERS}


def only(name, count):
    return dict.fromkeys(COUNTERS, 0) | {name: count}


# What is sent, and when


def test_what_is_sent_is_the_schedule_and_no_request_waits_for_another(world):
    """The server takes a second for each: in a closed loop, most would be late."""
    server = world.server(work_s=0.99)
    run = world.harness(server, at(20, 15) | EMBEDDINGS)
    records = sorted(run.records, key=lambda record: record["due"])
    assert len(records) == pytest.approx(300, abs=5 * math.sqrt(300))
    assert kstest(gaps([record["due"] for record in records]), exponential(1 / 20)) > 0.01
    assert [record["sent"] for record in records] == EXACT([record["due"] for record in records], abs=1e-6)
    truth = world.truth(server)
    start = truth[records[0]["id"]]["at"] - records[0]["due"]
    assert [truth[record["id"]]["at"] - start for record in records] == EXACT([one["due"] for one in records], abs=1e-6)
    assert len(truth) == len(records)

    again = world.harness(world.server(), at(20, 15) | EMBEDDINGS)
    assert again.report["schedule"] == run.report["schedule"]
    other = world.harness(world.server(), at(20, 15) | EMBEDDINGS, "--seed", "2")
    assert other.report["schedule"] != run.report["schedule"]


def test_requests_are_the_same_for_the_same_seed_whoever_sends_them(world):
    """Two workers, who share the schedule, send what one sends alone; seen by the server."""
    from virtual_locust import workers

    alone, shared = world.server(), world.server()
    run = world.harness(alone, at(20, 6) | EMBEDDINGS)
    both = workers(world, 2, shared, at(20, 6) | EMBEDDINGS)
    assert (run.code, both.code) == (0, 0)
    assert both.report["schedule"] == run.report["schedule"]
    assert [one["number"] for one in both.records] == [one["number"] for one in run.records]

    def asked(server, run):
        bodies = {key: entry["body"] for key, entry in world.truth(server).items()}
        return [bodies[record["id"]] for record in run.records]

    assert asked(shared, both) == asked(alone, run)
    assert len(set(asked(alone, run))) > 20


def test_a_worker_that_dies_leaves_its_requests_open(world):
    """Nothing comes of its share: after the patience of clients, the test ends and says so."""
    from virtual_locust import workers

    run = workers(world, 2, world.server(), at(20, 6) | EMBEDDINGS, dead={1})
    assert run.code == 3
    assert f"{len(run.records) // 2} requests were due and never sent" in run.report["health"]["ill"]
    assert {record["number"] % 2 for record in run.records if record["sent"] is None} == {1}


def test_a_busy_worker_is_an_ill_generator(world):
    from virtual_locust import workers

    world.cpu = 0.7
    run = workers(world, 2, world.server(), at(20, 6) | EMBEDDINGS)
    assert run.code == 3
    assert "0.70 cores in one process" in run.report["health"]["ill"]


def test_a_trace_is_replayed(world, tmp_path):
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 * second},{second % 7 + 2}" for second in range(1, 31)]
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    server = world.server(first_s=0.01, token_s=0.001)
    run = world.harness(server, "replay", "--trace", str(trace), "--speed", "10", "--skip", "2", "--most", "20")
    records = sorted(run.records, key=lambda record: record["number"])
    assert [record["due"] for record in records] == EXACT([number / 10 for number in range(20)])
    # The scenario makes lengths a tenth, and no answer shorter than two tokens.
    wanted = [max(2, round((second % 7 + 2) * 0.1)) for second in range(3, 23)]
    assert [record["tokens"] for record in records] == wanted


def test_each_tenant_has_its_key_and_is_judged_by_itself(world, monkeypatch):
    monkeypatch.setenv("MEDLEY_API_KEY", "of-all")
    monkeypatch.setenv("QUIET_KEY", "of-quiet")
    parts = [{"task": "embeddings", "tenant": tenant, "good": 0.5} for tenant in ("quiet", "greedy")]
    server = world.server()
    run = world.harness(server, at(20, 6, parts=parts), "--keys", "quiet=QUIET_KEY")
    assert run.code == 0, run.output
    truth = world.truth(server)
    keys = {(record["tenant"], truth[record["id"]]["key"]) for record in run.records}
    assert keys == {("quiet", "Bearer of-quiet"), ("greedy", "Bearer of-all")}
    assert {run.rule("goodput", f"fake-embeddings of {name}")["wanted"] for name in ("quiet", "greedy")} == {0.5}


def test_models_are_warmed_up_before_the_clock_starts(world):
    server = world.server(work_s=0.3)
    run = world.harness(server, at(10, 7, warm_up=2) | EMBEDDINGS)
    assert len(world.truth(server)) == len(run.records) + 2
    assert run.report["cold_start_s"] == {"fake-embeddings": EXACT(0.3, abs=1e-6)}
    assert min(record["number"] for record in run.records) == 0


# What is timed


def test_times_are_those_of_the_server_to_the_last_token(world):
    server = world.server(first_s=0.12, token_s=0.02)
    run = world.harness(server, at(8, 15) | CHAT)
    truth = world.truth(server)
    assert len(run.records) > 80
    for record in run.records:
        entry = truth[record["id"]]
        assert record["sent"] - record["due"] == EXACT(0, abs=1e-6)
        assert record["first"] - record["sent"] == EXACT(entry["writes"][0] - entry["at"], abs=1e-6)
        assert record["last"] - record["sent"] == EXACT(entry["writes"][-1] - entry["at"], abs=1e-6)
        assert record["max_gap"] == EXACT(0.02 if len(entry["writes"]) > 1 else 0, abs=1e-6)
        assert record["tokens"] == record["chunks"] == record["amount"] == len(entry["writes"])
    figures = run.report["models"][0]["figures"]
    assert figures["time_to_first_token_s"]["p99"] == EXACT(0.12, abs=1e-6)
    assert figures["time_per_output_token_s"]["p50"] == EXACT(0.02, abs=1e-6)


def test_a_stall_is_seen_by_all_that_were_due_in_it(world):
    """One slot and 60 ms of work at 20 requests a second: the queue grows without end, and every wait counts."""
    run = world.harness(world.server(work_s=0.06, slots=1), at(20, 6, burstiness=100) | EMBEDDINGS)
    free = 0.0
    for record in sorted(run.records, key=lambda one: one["due"]):
        free = max(free, record["due"]) + 0.06
        assert record["last"] == EXACT(free, abs=1e-6)
    assert free - max(record["due"] for record in run.records) > 0.8  # the last has waited for the others


def test_what_the_server_says_of_its_own_times_is_kept(world):
    run = world.harness(world.server(work_s=0.2), at(10, 7) | EMBEDDINGS)
    assert {(record["queue_s"], record["engine_s"]) for record in run.records} == {(0.0025, 0.2)}


# What is concluded


@pytest.mark.parametrize(
    ("promised", "slower", "kind", "why"),
    [
        ({"work_s": 0.99}, {"work_s": 1.01}, EMBEDDINGS, "duration_s 1.01 over 1"),
        ({"first_s": 0.49}, {"first_s": 0.51}, CHAT, "time_to_first_token_s 0.51 over 0.5"),
        ({"token_s": 0.099}, {"token_s": 0.101}, CHAT, "time_per_output_token_s 0.101 over 0.1"),
    ],
)
def test_a_server_as_promised_passes_and_one_that_is_little_slower_fails(world, promised, slower, kind, why):
    kept = world.harness(world.server(**promised), at(10, 8) | kind)
    assert kept.code == 0, kept.output
    broken = world.harness(world.server(**slower), at(10, 8) | kind)
    assert broken.code == 1, broken.output
    (rule,) = [rule for rule in broken.report["rules"] if rule["rule"] == "goodput"]
    assert why in rule["why"]
    assert rule["value"] == 0
    assert counts(broken) == dict.fromkeys(COUNTERS, 0)


def test_every_task_is_answered_rightly_by_a_server_that_does(world):
    run = world.harness(world.server(), at(30, 16) | ALL)
    assert run.code == 0, run.output
    assert {record["task"] for record in run.records} == set(TASKS)
    assert all(record["complete"] and record["amount"] for record in run.records)


def test_a_task_that_only_the_server_knows_is_asked_for_its_example(world):
    server = world.server(cards=[RERANKING])
    run = world.harness(server, at(10, 8) | {"parts": [{"task": "reranking", "options": {"top_n": 1}}]})
    assert run.code == 0, run.output
    asked = RERANKING["example"]["body"] | {"model": "fake-reranking", "top_n": 1}
    assert all(entry["asked"] == asked for entry in world.truth(server).values())
    assert {record["amount"] for record in run.records} == {7}

    run = world.harness(world.server(cards=[RERANKING], wrong=4), at(10, 8) | {"parts": [{"task": "reranking"}]})
    assert run.code == 1, run.output
    assert counts(run) == only("wrong_answers", len(run.records) // 4)


def test_a_scenario_may_ask_for_every_other_task(world, caplog):
    """And says which models it had to leave out."""
    secret = {"id": "secret", "task": "weather", "state": "ready", "example": None}
    parts = [{"task": "embeddings", "share": 2}, {"task": "*", "options": {"seed": 1}}]
    server = world.server(cards=[*CARDS[1:2], RERANKING, SPEECH, secret])
    run = world.harness(server, at(30, 10, parts=parts))
    assert run.code == 0, run.output
    shares = Counter(record["model"] for record in run.records)
    assert shares.keys() == {"fake-embeddings", "fake-reranking", "fake-speech"}
    assert shares["fake-embeddings"] > 1.4 * max(shares["fake-reranking"], shares["fake-speech"])
    (said,) = [line for line in caplog.messages if "secret" in line]
    assert said == "secret is not load tested: /v1/models gives no example of a request for its task, weather."


@pytest.mark.parametrize("task", TASKS)
def test_a_wrong_answer_of_any_task_is_a_fault(world, task):
    server = world.server(wrong=4)
    run = world.harness(server, at(10, 8) | {"parts": [part for part in ALL["parts"] if part["task"] == task]})
    wrong = {key for key, entry in world.truth(server).items() if entry.get("wrong")}
    assert len(wrong) > 3
    assert run.code == 1, run.output
    assert counts(run) == only("wrong_answers", len(wrong))
    assert {record["id"] for record in run.records if record["why"]} == wrong


@pytest.mark.parametrize(
    ("fault", "kind", "counter", "why"),
    [
        ({"errors": 20}, EMBEDDINGS, "server_errors", "500: broken on purpose"),
        ({"cut": 20}, CHAT, "incomplete_streams", ""),
        ({"lose": 20}, EMBEDDINGS, "lost", ""),
        ({"lose": 20}, CHAT, "lost", ""),
        ({"refuse": 20, "retry_after": ""}, EMBEDDINGS, "refusals_without_retry_after", "no Retry-After"),
    ],
)
def test_a_single_fault_of_the_server_fails_a_test_that_is_well_otherwise(world, fault, kind, counter, why):
    run = world.harness(world.server(**fault), at(10, 5) | kind)
    assert run.code == 1, run.output
    assert counts(run) == only(counter, len(run.records) // 20)
    assert run.rule(counter)["outcome"] == "failed"
    assert why in run.rule(counter)["why"]
    # Beside one miss in twenty no goodput is surely broken: it is the counter that fails the test.
    assert not [one for one in run.report["rules"] if one["rule"] == "goodput" and one["outcome"] == "failed"]


# A client that gives up


@pytest.mark.parametrize(
    ("fault", "kind", "status", "demanded"),
    [
        ({"hang": 4}, EMBEDDINGS, 0, False),  # nothing came
        ({"hang": 4}, CHAT, 0, False),
        ({"stall": 4}, CHAT, 200, False),  # half of a stream, and then nothing
        ({"hang": 4}, EMBEDDINGS, 0, True),  # a scenario may say that nobody must have to
    ],
)
def test_who_gives_up_is_a_miss_and_no_fault_of_the_server(world, fault, kind, status, demanded):
    """The promise allows 20 s for a chat, so clients wait for 35 s; for an embedding 10 s, as the scenario says."""
    patience = {"fake-chat": 35, "fake-embeddings": 10}
    run = world.harness(world.server(**fault), at(10, 8, counters=[*COUNTERS, "given_up"] if demanded else None) | kind)
    gone = [record for record in run.records if record["given_up"]]
    assert len(gone) == len(run.records) // 4
    assert run.code == 1, run.output
    assert counts(run) == dict.fromkeys(COUNTERS, 0)
    (model,) = run.report["models"]
    why = f"no complete answer within {patience[model['model']]} s"
    assert {(record["status"], record["why"], record["complete"]) for record in gone} == {(status, why, False)}
    assert model["given_up"] == model["misses"]["given_up"] == len(gone)
    assert run.rule("goodput", model["model"])["value"] == EXACT(1 - len(gone) / len(run.records))
    assert why in run.rule("goodput", model["model"])["why"]
    assert f'name="given_up {model["model"]}" value="{len(gone)}"' in (run.folder / "report.xml").read_text()
    rules = {rule["rule"]: rule["outcome"] for rule in run.report["rules"] if rule["rule"] == "given_up"}
    assert rules == ({"given_up": "failed"} if demanded else {})


@pytest.mark.parametrize(
    ("limits", "kind", "server", "drain", "takes"),
    [
        ("duration_s: 20", EMBEDDINGS, {"work_s": 19.9}, 3, 19.9),  # as long as is just allowed
        ("duration_s: 120", EMBEDDINGS, {"work_s": 119}, 60, 119),
        ("time_to_first_token_s: 5, time_per_output_token_s: 2", CHAT, {"first_s": 4.9, "token_s": 1.9}, 3, None),
        ("duration_s: 20", EMBEDDINGS, {"work_s": 34.9}, 3, 34.9),  # late, and told how late
        ("duration_s: 2", EMBEDDINGS, {"work_s": 7.9}, 3, 7.9),
        ("duration_s: 2", EMBEDDINGS, {"work_s": 99}, 100, 99),
    ],
)
def test_a_client_waits_longer_than_is_promised(world, tmp_path, limits, kind, server, drain, takes):  # noqa: PLR0917
    slo = tmp_path / "mine.yaml"
    slo.write_text(f"profiles: {{cpu: {{tasks: {{{kind['parts'][0]['task']}: {{{limits}, good: 0.95}}}}}}}}\n")
    run = world.harness(world.server(**server), at(10, 8, drain_s=drain) | kind, slo=slo)
    assert all(record["complete"] and not record["given_up"] for record in run.records)
    (model,) = run.report["models"]
    assert run.code == (0 if model["share_good"] == 1 else 1), run.output
    if takes:
        assert model["figures"]["duration_s"]["p50"] == EXACT(takes)
    else:
        assert model["share_good"] == 1


def test_an_error_that_does_not_end_is_an_error(world):
    """The status had said all before the client gave up."""
    run = world.harness(world.server(errors=20, half=1), at(10, 5) | EMBEDDINGS)
    assert run.code == 1, run.output
    assert counts(run) == only("server_errors", len(run.records) // 20)
    assert run.report["models"][0]["given_up"] == 0


def test_who_is_not_let_connect_gives_up_too(world, monkeypatch):
    """A server whose queue of connections is full: the library's own ten seconds are shorter than the promise."""
    monkeypatch.setattr(world, "connect", lambda pool: gevent.sleep(3600))
    run = world.harness(world.server(), at(5, 2) | EMBEDDINGS)
    assert run.code == 4
    assert "no answer within 30 s" in run.output


# Clients that come back


def test_who_is_refused_comes_back_with_the_same_request_when_it_was_told(world):
    """Every other one is refused, whoever asks: two thirds are let in at last when they come back once or twice."""
    parts = [{"task": "embeddings", "returns": 20}]
    server = world.server(refuse=2, retry_after="3", work_s=0.2)
    run = world.harness(server, at(10, 8, parts=parts) | {"drain_s": 100})
    assert run.code == 0, run.output
    tries = defaultdict(list)
    for key, entry in world.truth(server).items():
        tries[key.partition(".")[0]].append(entry)
    back = [record for record in run.records if record["returned"]]
    assert 20 < len(back) < len(run.records)
    for record in run.records:
        entries = tries[record["id"].partition(".")[0]]
        assert len(entries) == record["returned"] + 1
        assert len({entry["body"] for entry in entries}) == 1
        again = [after["at"] - before["at"] for before, after in pairwise(entries)]
        assert again == EXACT([3.0] * record["returned"], abs=1e-6)
        # It was due when it was due, and its answer is timed from the try that was let in.
        assert record["sent"] == EXACT(record["due"], abs=1e-6)
        assert record["tried"] == EXACT(record["sent"] + 3 * record["returned"], abs=1e-6)
        assert record["last"] - record["tried"] == EXACT(0.2, abs=1e-6)
        assert (record["status"], record["complete"], record["why"]) == (200, True, "")
    (model,) = run.report["models"]
    asked_again = len(world.truth(server)) - len(run.records)
    assert model["returns"] == {
        "at_first": len(back),
        "came_back": len(back),
        "tries": asked_again,
        "let_in": len(back),
        "share_let_in": len(back) / asked_again,
    }
    assert (model["refused"], model["share_good"]) == (0, 1.0)
    assert model["figures"]["duration_s"]["p99"] == EXACT(0.2, abs=1e-6)
    said = " ".join(run.output.split())
    assert (
        f"{len(back)} were refused at first, and {len(back)} of them came back, {asked_again} times in all: they were"
        in said
    )
    assert f'name="returns.let_in fake-embeddings" value="{len(back)}"' in (run.folder / "report.xml").read_text()


@pytest.mark.parametrize(
    ("returns", "retry_after", "drain", "tries"),
    [
        (0, "1", 10, 1),
        (2, "1", 10, 3),  # so many times at most
        (100, "3", 10, 4),  # as long as it is patient
        (5, "11", 10, 1),  # longer than it is patient
        (5, "", 10, 1),  # nobody said when
    ],
)
def test_a_client_comes_back_as_often_as_is_said_and_while_it_is_patient(world, returns, retry_after, drain, tries):
    server = world.server(refuse=1, retry_after=retry_after)
    parts = [{"task": "embeddings", "returns": returns}]
    run = world.harness(server, at(5, 4, parts=parts, drain_s=drain, warm_up=0))
    assert run.code == 1, run.output
    assert len(world.truth(server)) == tries * len(run.records)
    (model,) = run.report["models"]
    assert {(record["status"], record["returned"]) for record in run.records} == {(429, tries - 1)}
    assert (model["refused"], model["good"]) == (len(run.records), 0)
    assert model["returns"]["share_let_in"] == (None if tries == 1 else 0)
    assert counts(run) == only("refusals_without_retry_after", 0 if retry_after else len(run.records))


def test_what_becomes_of_a_client_that_was_let_in_at_last_is_judged_like_any_other(world):
    """Two of three tries are refused; what is let in is slow, broken, or hangs."""
    for fault, counter in (({"errors": 4}, "server_errors"), ({"cut": 4}, "incomplete_streams")):
        server = world.server(refuse=3, **fault)
        parts = [{"task": "chat", "options": {"max_tokens": 4}, "returns": 9}]
        run = world.harness(server, at(10, 6, parts=parts))
        assert run.code == 1, run.output
        broken = [record for record in run.records if not record["complete"] or record["status"] == 500]
        assert counts(run) == only(counter, len(broken))
        assert any(record["returned"] for record in broken)


def test_who_waits_to_come_back_keeps_nobody_from_being_sent(world, monkeypatch):
    monkeypatch.setattr("loadtest.sending.MOST_OUTSTANDING", 30)
    parts = [{"task": "embeddings", "returns": 3}]
    run = world.harness(world.server(refuse=1, retry_after="9"), at(20, 4, parts=parts))
    assert len(run.records) > 40
    assert run.report["health"]["unsent"] == 0


def test_refusals_in_time_are_misses_and_no_faults(world):
    run = world.harness(world.server(refuse=2), at(10, 8) | EMBEDDINGS)
    assert run.code == 1, run.output
    assert counts(run) == dict.fromkeys(COUNTERS, 0)
    assert "refused (429)" in run.rule("goodput", "fake-embeddings")["why"]
    assert run.rule("goodput", "fake-embeddings")["value"] == EXACT(0.5, abs=0.01)
    assert {record["retry_after"] for record in run.records if record["status"] == 429} == {1.0}
    assert run.report["models"][0]["refused"] == len(run.records) // 2


def test_what_is_beyond_any_promise_is_a_refusal_of_its_own_kind_and_always_bad(world):
    parts = [{"task": "embeddings", "returns": 3}]
    run = world.harness(world.server(beyond=2), at(10, 8, parts=parts, refusals_count=False))
    assert run.code == 1, run.output
    assert counts(run) == dict.fromkeys(COUNTERS, 0)
    assert "beyond_promise (422)" in run.rule("goodput", "fake-embeddings")["why"]
    (model,) = run.report["models"]
    assert (model["beyond_promise"], model["refused"], model["returns"]["tries"]) == (len(run.records) // 2, 0, 0)
    assert f"{model['beyond_promise']} were too large to be answered in time even alone" in run.output


def test_a_scenario_may_be_meant_to_be_refused_in_part(world):
    run = world.harness(world.server(refuse=2), at(20, 8, refusals_count=False) | EMBEDDINGS)
    assert run.code == 0, run.output


def test_a_counter_that_a_scenario_leaves_out_is_not_judged(world):
    run = world.harness(world.server(errors=60), at(20, 8, counters=["lost"]) | EMBEDDINGS)
    assert run.code == 0, run.output
    assert [rule["rule"] for rule in run.report["rules"]] == ["lost", "goodput"]


def test_who_leaves_closes_the_connection_and_is_not_counted(world):
    parts = [{"task": "chat", "options": {"max_tokens": 16, "max_prompt_tokens": 20, "leave": 0.5}, "good": 0.5}]
    server = world.server()
    run = world.harness(server, at(10, 6, parts=parts))
    assert run.code == 0, run.output
    left = [record for record in run.records if record["left"]]
    assert 10 < len(left) < 50
    assert all(not record["complete"] and not record["why"] for record in left)
    truth = world.truth(server)
    # Who leaves while the last token is on its way, the server does not notice.
    noticed = {key for key, entry in truth.items() if entry.get("left")}
    assert noticed <= {record["id"] for record in left}
    assert len(noticed) > len(left) / 2
    assert run.report["models"][0]["left"] == len(left)


def test_too_few_attempts_prove_nothing(world):
    run = world.harness(world.server(), at(5, 2) | EMBEDDINGS)
    assert run.code == 3, run.output
    assert "prove nothing" in run.rule("goodput", "fake-embeddings")["why"]
    assert "<skipped" in (run.folder / "report.xml").read_text()


def test_a_sample_grows_until_it_proves_something_and_no_further(world):
    server = world.server()
    run = world.harness(server, at(15, 4, looks=3) | EMBEDDINGS)
    assert run.code == 0, run.output
    assert 90 < len(run.records) < 150  # 60 are too few for three looks, 120 are not, and 240 were planned
    assert max(record["due"] for record in run.records) < 8
    assert len(world.truth(server)) - len(run.records) < 3 * 15  # and sending ends


def test_workers_are_told_to_end_when_the_sample_is_large_enough(world):
    from virtual_locust import workers

    server = world.server()
    run = workers(world, 2, server, at(15, 4, looks=3) | EMBEDDINGS)
    assert run.code == 0, run.output
    assert len(world.truth(server)) - len(run.records) < 3 * 15


def test_a_growing_sample_that_proves_nothing_ends_with_the_last_look(world):
    """As good as is promised and no better: no sample can tell."""
    run = world.harness(world.server(refuse=20), at(15, 4, looks=2) | EMBEDDINGS)
    assert run.code == 3, run.output
    assert max(record["due"] for record in run.records) > 7


# The generator is examined first


def test_a_generator_that_stalls_is_ill_and_leaves_it_open(world):
    gevent.spawn_later(4, world.stall, 0.9)
    run = world.harness(world.server(), at(20, 8) | EMBEDDINGS)
    assert run.code == 3, run.output
    assert "ms late or more, and 100 are allowed" in run.report["health"]["ill"]
    late = [record for record in run.records if record["sent"] - record["due"] > 0.1]
    assert 10 < len(late) < 30
    # It counts from when they were due: the generator does not hide that somebody waited.
    slowest = run.report["models"][0]["figures"]["duration_s"]["p99"]
    assert 0.7 < slowest < 0.95


def test_a_generator_that_is_late_is_no_excuse_for_a_fault_of_the_server(world):
    gevent.spawn_later(4, world.stall, 0.9)
    run = world.harness(world.server(errors=20), at(20, 8) | EMBEDDINGS)
    assert run.code == 1, run.output
    assert run.report["health"]["ill"]


def test_a_generator_that_computes_too_much_is_ill(world):
    world.cpu = 0.6
    run = world.harness(world.server(), at(10, 8) | EMBEDDINGS)
    assert run.code == 3, run.output
    assert "0.60 cores in one process" in run.report["health"]["ill"]


def test_what_is_due_while_too_much_is_under_way_is_not_sent(world, monkeypatch):
    monkeypatch.setattr("loadtest.sending.MOST_OUTSTANDING", 30)
    server = world.server(work_s=5)
    run = world.harness(server, at(20, 4, burstiness=100) | EMBEDDINGS)
    assert run.code == 3, run.output
    assert [record["number"] for record in run.records if record["sent"] is not None] == list(range(30))
    assert len(world.truth(server)) == 30
    assert f"{len(run.records) - 30} requests were due and never sent" in run.report["health"]["ill"]


# What it ends with otherwise, and what it leaves


@pytest.mark.parametrize(
    ("scenario", "words", "why"),
    [
        ("none", (), "There is no scenario 'none'"),
        (at(1, 1) | {"parts": [{"task": "weather"}]}, (), "has no model for weather ready"),
        (at(1, 1) | {"parts": [{"task": "*"}, {"task": "*"}]}, (), "one part may have the task '*'"),
        (at(1, 1) | {"parts": [{"task": "chat", "model": "large"}]}, (), "has no large ready"),
        (at(1, 1, colour="red") | EMBEDDINGS, (), "colour"),
        (at(0, 1) | EMBEDDINGS, (), "every stage has a rate of 0"),
        (at(1, 1, counters=["lst"]) | EMBEDDINGS, (), "lst is not among"),
        (at(1, 1) | EMBEDDINGS, ("--promises", "moon"), "no profile 'moon'"),
        (at(1, 1) | EMBEDDINGS, ("--rate", "-1"), "--rate must be above 0"),
        (at(1, 1) | EMBEDDINGS, ("--keys", "quiet=NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE"),
    ],
)
def test_exit_2_for_wrong_use_which_is_told(world, scenario, words, why):
    server = world.server()
    run = world.harness(server, scenario, *words)
    assert run.code == 2
    assert why in run.output
    assert not world.truth(server)


def test_a_model_that_is_not_ready_is_not_asked(world):
    cards = [{"id": "a", "task": "embeddings", "state": "loading"}, {"id": "b", "task": "embeddings", "state": "ready"}]
    run = world.harness(world.server(cards=cards), at(10, 7) | EMBEDDINGS)
    assert {record["model"] for record in run.records} == {"b"}
    three = [{"id": name, "task": "embeddings", "state": "ready"} for name in "abc"]
    run = world.harness(world.server(cards=three), at(10, 7) | EMBEDDINGS, "--models", "x,c")
    assert {record["model"] for record in run.records} == {"c"}


def test_a_model_without_an_example_is_not_asked_and_that_is_told(world):
    cards = [{"id": "m", "task": "weather", "state": "ready"}]
    for task in ("weather", "*"):
        run = world.harness(world.server(cards=cards), at(10, 7) | {"parts": [{"task": task}]})
        assert run.code == 2
        assert ("gives no example" if task == "weather" else "no model that could be asked") in run.output
    example = {"id": "n", "task": "weather", "state": "ready", "example": RERANKING["example"]}
    run = world.harness(world.server(cards=[*cards, example]), at(10, 7) | {"parts": [{"task": "weather"}]})
    assert {record["model"] for record in run.records} == {"n"}


def test_exit_4_when_nobody_answers(world):
    run = world.harness("http://nobody.test", at(1, 1) | EMBEDDINGS)
    assert run.code == 4
    assert "http://nobody.test does not answer" in run.output
    # It is there, but a model does not answer its first request.
    run = world.harness(world.server(errors=1), at(1, 1, warm_up=1) | EMBEDDINGS)
    assert run.code == 4
    assert "fake-embeddings does not answer: 500: broken on purpose" in run.output


def test_exit_5_when_the_harness_itself_fails(world, tmp_path):
    (tmp_path / "file").write_text("")
    run = world.harness(world.server(), at(5, 2) | EMBEDDINGS, "--report", str(tmp_path / "file" / "folder"))
    assert run.code == 5, run.output


def test_a_test_that_is_stopped_by_hand_has_not_passed(world):
    gevent.spawn_later(3, lambda: world.runners[0].quit())  # noqa: PLW0108  there is none yet
    run = world.harness(world.server(), at(10, 10) | EMBEDDINGS)
    assert run.code == 5
    assert not (run.folder / "report.json").exists()


def test_reports_are_for_people_and_programs(tmp_path):
    from virtual_locust import world_of

    with world_of(tmp_path, pages=True) as world:
        parts = [CHAT["parts"][0] | {"returns": 1}]
        run = world.harness(world.server(refuse=8), at(20, 12, proves="It <b>works</b> & is fast.", parts=parts))
    assert run.code == 0, run.output
    assert "PASSED" in run.output
    page = (run.folder / "report.html").read_text()
    assert page.count("<svg") == 7
    assert not re.search(r'(src|href)="(?!#)', page)  # it loads nothing
    assert "It &lt;b&gt;works&lt;/b&gt; &amp; is fast." in page
    assert len(page) < 600_000
    assert {"attempts", "goodput", "refused", "given"} <= set(re.findall(r"\w+", page))
    assert re.search(r"<p>fake-chat: \d+ were refused at first, and \d+ of them came back", page)


@pytest.mark.parametrize(("setting", "outcome", "failures"), [({}, "PASSED", 0), ({"work_s": 1.3}, "FAILED", 1)])
def test_the_outcome_is_told_on_the_terminal_and_to_build_servers(world, setting, outcome, failures):
    run = world.harness(world.server(**setting), at(10, 8) | EMBEDDINGS)
    assert outcome in run.output
    assert f'failures="{failures}"' in (run.folder / "report.xml").read_text()
    assert run.report["outcome"] == outcome.lower()
    assert run.report["exit"] == run.code == failures


def test_locust_s_own_table_has_the_same_attempts(world):
    run = world.harness(world.server(errors=20), at(10, 8) | EMBEDDINGS)
    total = world.runners[-1].stats.total
    assert total.num_requests == len(run.records)
    assert total.num_failures == len(run.records) // 20


# A/B


def test_a_planted_slowdown_is_found_and_equal_builds_are_not_flagged(world):
    def compared(work_of_b):
        a, b = world.server(work_s=0.05), world.server(work_s=work_of_b)
        run = world.harness(a, at(10, 30) | EMBEDDINGS, "--against", b)
        asked = [len(world.truth(server)) for server in (a, b)]
        assert min(asked) > 0.4 * sum(asked)
        assert sum(asked) == len(run.records)
        (found,) = [one for one in run.report["comparison"] if one["figure"] == "duration_s"]
        return found

    assert compared(0.05)["b_is"] == ""
    assert compared(0.054)["b_is"] == ""  # less than a tenth
    slower = compared(0.06)
    assert slower["b_is"] == "slower"
    assert slower["ratio"] == EXACT(1.2, rel=0.01)
    assert compared(0.04)["b_is"] == "faster"
