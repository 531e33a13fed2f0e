"""The harness as a user runs it, against servers whose delays are known."""

import json
import re
import subprocess
import sys

import pytest
from known_delays import ROOT, serving
from scipy.stats import kstest

CHAT = {"parts": [{"task": "chat", "options": {"max_prompt_tokens": 40, "max_tokens": 16}}]}
EMBEDDINGS = {"parts": [{"task": "embeddings"}]}


def at(rate, seconds, **changes):
    return {"stages": [{"rate": rate, "seconds": seconds}], "drain_s": 10, **changes}


def percentile(values, share):
    return sorted(values)[int(share * (len(values) - 1))]


def test_times_of_tokens_are_true_to_2_ms(fake, harness):
    server = fake(first_s=0.12, token_s=0.02)
    run = harness(server.address, at(8, 15) | CHAT)
    truth, records = server.truth(), run.records
    assert len(records) > 80
    errors, gaps = [], []
    for record in records:
        written = truth[record["id"]]
        errors.append((record["first"] - record["sent"]) - (written["writes"][0] - written["arrived"]))
        true_gap = (written["writes"][-1] - written["writes"][0]) / (len(written["writes"]) - 1)
        gaps.append((record["last"] - record["first"]) / (record["tokens"] - 1) - true_gap)
    assert percentile([abs(error) for error in errors], 0.5) <= 0.002
    assert percentile([abs(gap) for gap in gaps], 0.5) <= 0.002
    assert run.rule("goodput", "fake-chat")["value"] > 0.9


def test_what_is_sent_is_the_schedule(fake, harness):
    run = harness(fake().address, at(20, 15) | EMBEDDINGS)
    due = sorted(record["due"] for record in run.records)
    gaps = [after - before for before, after in zip([0.0, *due], due, strict=False)]
    assert kstest(gaps, "expon", args=(0, 1 / 20)).pvalue > 0.01
    sent = sorted(record["sent"] for record in run.records)
    arrived = [after - before for before, after in zip([0.0, *sent], sent, strict=False)]
    assert kstest(arrived, "expon", args=(0, 1 / 20)).pvalue > 0.01
    again = harness(fake().address, at(20, 15) | EMBEDDINGS)
    assert again.report["schedule"] == run.report["schedule"]


def test_a_stall_is_seen_by_all_that_were_due_in_it(fake, harness):
    """One slot and 60 ms of work at 20 requests a second: the queue grows without end, and every wait counts."""
    run = harness(fake(work_s=0.06, slots=1).address, at(20, 6, burstiness=100) | EMBEDDINGS)
    waits = [record["last"] - record["due"] for record in sorted(run.records, key=lambda one: one["due"])]
    # Arrivals are 50 ms apart and answers 60, so the last of 120 waits about a second longer than the first.
    assert waits[-1] - waits[0] == pytest.approx(0.01 * len(waits), rel=0.35)


def test_exit_0_when_all_is_kept_and_reports_for_people_and_programs(fake, harness):
    run = harness(fake().address, at(10, 12) | EMBEDDINGS)
    assert run.code == 0, run.output
    assert "PASSED" in run.output
    page = (run.folder / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r'(src|href)="(?!#)', page)  # it loads nothing
    assert len(page) < 600_000
    assert 'failures="0"' in (run.folder / "report.xml").read_text()


def test_exit_1_when_a_limit_is_broken(fake, harness):
    run = harness(fake(work_s=1.3).address, at(5, 8) | EMBEDDINGS)
    assert run.code == 1, run.output
    assert "duration_s" in run.rule("goodput", "fake-embeddings")["why"]
    assert 'failures="1"' in (run.folder / "report.xml").read_text()


@pytest.mark.parametrize(
    ("setting", "kind", "rule"),
    [({"errors": 20}, EMBEDDINGS, "server_errors"), ({"cut": 20}, CHAT, "incomplete_streams")],
)
def test_exit_1_for_one_fault_of_the_server(fake, harness, setting, kind, rule):
    run = harness(fake(first_s=0.01, token_s=0.001, **setting).address, at(10, 5) | kind)
    assert run.code == 1, run.output
    assert run.rule(rule)["outcome"] == "failed"
    assert run.rule(rule)["value"] == len(run.records) // 20


def test_a_wrong_answer_is_a_fault(fake, harness):
    """It is asked for the parts of a pair and something else, and answers the same for all."""
    wrong = {"parts": [{"task": "chat", "options": {"max_tokens": 4, "max_prompt_tokens": 20}}]}
    run = harness(fake(first_s=0.01).address, at(10, 2) | wrong)
    assert run.rule("wrong_answers")["outcome"] == "passed"


def test_exit_2_for_a_wrong_scenario_promise_or_address(fake, harness):
    address = fake().address
    assert harness(address, "none").code == 2
    assert harness(address, at(1, 1) | {"parts": [{"task": "weather"}]}).code == 2
    assert harness(address, at(1, 1, colour="red") | EMBEDDINGS).code == 2
    assert harness(address, at(1, 1) | EMBEDDINGS, "--promises", "moon").code == 2
    assert harness(address, at(1, 1) | EMBEDDINGS, "--rate", "-1").code == 2


def test_exit_3_when_too_few_attempts_prove_nothing(fake, harness):
    run = harness(fake().address, at(5, 2) | EMBEDDINGS)
    assert run.code == 3, run.output
    assert "prove nothing" in run.rule("goodput", "fake-embeddings")["why"]
    assert "<skipped" in (run.folder / "report.xml").read_text()


def test_a_sample_grows_until_it_proves_something(fake, harness):
    run = harness(fake().address, at(15, 4, looks=3) | EMBEDDINGS)
    assert run.code == 0, run.output
    assert 90 < len(run.records) < 150  # 60 are too few for three looks, 120 are not


def test_exit_4_when_nobody_answers(harness):
    assert harness("http://127.0.0.1:9", at(1, 1) | EMBEDDINGS).code == 4


def test_exit_5_when_the_harness_itself_fails(fake, harness, tmp_path):
    (tmp_path / "file").write_text("")
    run = harness(fake().address, at(5, 2) | EMBEDDINGS, "--report", str(tmp_path / "file" / "folder"))
    assert run.code == 5, run.output


def test_two_processes_send_one_schedule(fake, harness):
    server = fake()
    run = harness(server.address, at(20, 6) | EMBEDDINGS, "--processes", "2")
    assert run.code == 0, run.output
    numbers = [record["number"] for record in run.records]
    assert sorted(numbers) == list(range(len(numbers)))
    one = harness(server.address, at(20, 6) | EMBEDDINGS)
    assert one.report["schedule"] == run.report["schedule"]
    assert run.report["attempts"] == one.report["attempts"]


def test_who_leaves_closes_the_connection(fake, harness):
    leaving = {
        "parts": [{"task": "chat", "options": {"max_tokens": 16, "max_prompt_tokens": 20, "leave": 0.5}, "good": 0.5}]
    }
    run = harness(fake(token_s=0.02).address, at(10, 6) | leaving)
    left = [record for record in run.records if record["left"]]
    assert 10 < len(left) < 50
    assert all(not record["complete"] and not record["why"] for record in left)
    assert run.code == 0, run.output


def test_a_trace_is_replayed(fake, harness, tmp_path):
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 * second},{second % 7 + 2}" for second in range(1, 31)]
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    run = harness(fake(first_s=0.01, token_s=0.001).address, "replay", "--trace", str(trace), "--speed", "10")
    assert len(run.records) == 30
    assert [round(record["due"], 3) for record in run.records] == [round(number / 10, 3) for number in range(30)]


def test_the_command_line_says_what_a_scenario_would_prove():
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "plan", "smoke"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    assert "chat" in done.stdout
    assert "enough" in done.stdout


def test_a_planted_slowdown_is_found_and_equal_builds_are_not_flagged(tmp_path, harness):
    def compared(work_of_b):
        with serving(tmp_path, work_s=0.05) as a, serving(tmp_path, work_s=work_of_b) as b:
            run = harness(a.address, at(20, 30) | EMBEDDINGS, "--against", b.address)
        (found,) = [one for one in run.report["comparison"] if one["figure"] == "duration_s"]
        return found

    assert compared(0.05)["b_is"] == ""
    slower = compared(0.06)
    assert slower["b_is"] == "slower", json.dumps(slower)
