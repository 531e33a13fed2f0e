"""Promises on the cluster: more than can be answered in time is refused, and the rest is answered in time; replicas
follow what is asked."""

import json
import subprocess
import sys

from starter_cluster import CHAT, MEDLEY, ROOT, run

from benchmarks import autoscaling
from loadtest import records

CHATS = {"task": "chat", "options": {"max_prompt_tokens": 64, "max_tokens": 12}, "good": 0.5}


def loaded(cluster, folder, rate, seconds):
    """A load test of chats. Its report and records."""
    scenario = folder / "chats.yaml"
    stages = [{"rate": rate, "seconds": seconds}]
    rows = {"proves": "It is tried.", "stages": stages, "parts": [CHATS], "refusals_count": False, "drain_s": 120}
    scenario.write_text(json.dumps(rows))
    report = folder / f"report-{rate}"
    command = [
        sys.executable,
        "-m",
        "loadtest",
        "run",
        str(scenario),
        "--host",
        cluster.address,
        "--report",
        str(report),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    print(done.stdout[-3000:])
    assert done.returncode in (0, 1, 3), done.stderr
    return json.loads((report / "report.json").read_text()), list(records.read(report / "records.jsonl"))


def test_what_would_come_too_late_is_refused_and_the_rest_is_not_late(cluster, http, tmp_path):
    loaded(cluster, tmp_path, 2, 15)  # from which the router learns
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    estimate = http.post("/v1/estimate", json=body).json()
    assert estimate["admitted"]
    assert estimate["observations"] > 8
    assert 0 < estimate["time_to_first_token_s"] < estimate["duration_s"] < 60
    assert estimate["cost"]["device_seconds"] > 0

    report, attempts = loaded(cluster, tmp_path, 40, 20)
    refused = [one for one in attempts if one.status == 429]
    answered = [one for one in attempts if one.answered]
    assert len(refused) > 50
    assert all(one.retry_after >= 1 for one in refused)
    assert len(refused) + len(answered) == len(attempts)
    limit = report["models"][0]["limits"]["time_to_first_token_s"]
    late = sum(one.figures()["time_to_first_token_s"] > limit for one in answered) / len(answered)
    print(f"{len(answered)} answered, {len(refused)} refused, {late:.1%} of the answered late")
    assert late < 0.25
    after = http.post("/v1/chat/completions", json=body, headers={"X-Deadline": "60"})
    assert after.status_code == 200


def test_replicas_follow_a_spike_as_the_simulator_says(cluster):
    """On a Ray of its own, with a model that sleeps instead of working."""
    found = autoscaling.measure("promise", autoscaling.scenario(base=2, spike=10, quiet_s=15, spike_s=30))
    print(f"\n{found}")
    assert found.lost == 0
    assert found.followed_s is not None
    assert found.followed_s < 20
    assert abs(found.most - found.simulated_most) <= 2
    assert 0.6 < found.replica_s / found.simulated_replica_s < 1.6


def test_the_command_line_simulates_the_config_of_the_cluster():
    out = run([*MEDLEY, "simulate", CHAT, "--stages", "1x30,5x30", "--json"])
    assert len(json.loads(out)) == 2
