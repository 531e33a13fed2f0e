"""Plain Locust in processes of its own, in real time, against servers with known delays: that what test_harness_runs.py
shows in virtual time is what users get. Nothing here depends on how fast the machine is, except that it is fast enough
for a few requests a second."""

import json
import signal
import subprocess
import sys
import time

import pytest
from known_delays import ROOT
from patience import wait_until
from runs import CHAT, EMBEDDINGS, at, written

pytestmark = pytest.mark.loadtests


def test_a_server_as_promised_passes_and_its_times_are_true(fake, harness):
    """Against the server's own stamps. What waits for a kilobyte, as Locust's `iter_lines`, is late by half of one."""
    server = fake(first_s=0.2, token_s=0.05)
    run = harness(server.address, at(4, 20) | CHAT)
    assert run.code == 0, run.output
    assert "PASSED" in run.output
    assert (run.folder / "report.html").read_text().count("<svg") == 7
    truth, early, gaps = server.truth(), [], []
    for record in run.records:
        written = truth[record["id"]]["writes"]
        early.append((record["first"] - record["sent"]) - (written[0] - truth[record["id"]]["at"]))
        if len(written) > 1:
            gaps.append((record["last"] - record["first"]) / (written[-1] - written[0]))
    # Of most requests: some are disturbed where the machine is busy.
    assert abs(sorted(early)[len(early) // 2]) < 0.05
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(1, abs=0.1)


def test_a_fault_of_the_server_fails(fake, harness):
    run = harness(fake(wrong=5).address, at(8, 5) | CHAT)
    assert run.code == 1, run.output
    assert "FAILED" in run.output
    assert run.rule("wrong_answers")["value"] == len(run.records) // 5


def test_a_refused_connection_is_told(harness):
    run = harness("http://127.0.0.1:9", at(1, 1) | EMBEDDINGS)
    assert run.code == 4
    assert "does not answer" in run.output


def test_two_processes_send_one_schedule(fake, harness):
    server = fake()
    run = harness(server.address, at(10, 8) | EMBEDDINGS, "--processes", "2")
    assert run.code in (0, 3), run.output  # 3 where this machine is too busy to be punctual
    assert sorted(record["number"] for record in run.records) == list(range(len(run.records)))
    assert sorted(server.truth()) == sorted(record["id"] for record in run.records)
    assert all(record["complete"] for record in run.records)


def test_a_test_that_is_stopped_by_hand_has_not_passed(fake, tmp_path):
    server = fake()
    folder, words = written(tmp_path, server.address, at(5, 120) | EMBEDDINGS)
    # A shell that runs the tests in the background makes all that it starts ignore Ctrl+C.
    listens = ["env", "--default-signal=INT"]
    command = [*listens, sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(server.truth, "requests arrive", 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 5
    finally:
        process.kill()
        process.wait()
    assert not (folder / "report.json").exists()
    sent = len(server.truth())
    time.sleep(1)
    assert len(server.truth()) == sent


def test_a_planted_slowdown_is_found_and_equal_builds_are_not_flagged(fake, tmp_path):
    """As the command line runs it, twice as slow, which no busy machine hides. benchmarks/ab.py is finer."""

    def compared(work_of_b, report):
        a, b = fake(work_s=0.1), fake(work_s=work_of_b)
        (tmp_path / "slo.yaml").write_text("profiles: {cpu: {tasks: {embeddings: {duration_s: 5, good: 0.5}}}}")
        words = ["ab", b.address, "--host", a.address, "--slo", str(tmp_path / "slo.yaml"), "--report", str(report)]
        command = [sys.executable, "-m", "loadtest", *words, "--rate", "10", "--seconds", "20"]
        code = subprocess.run(command, cwd=ROOT, check=False, timeout=250, stdout=subprocess.DEVNULL).returncode
        (found,) = json.loads((report / "report.json").read_text())["comparison"]
        return code, found["b_is"]

    code, b_is = compared(0.1, tmp_path / "equal")
    assert b_is != "slower"
    assert code in (0, 3)
    assert compared(0.2, tmp_path / "slower") == (1, "slower")
