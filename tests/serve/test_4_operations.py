"""A day of operation: follow a request, change a model under load, and see a change fail without harm."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starter_cluster import CHAT, EMBEDDINGS, MEDLEY, ROOT, run

from medley import cluster as local
from models import weights
from models.catalog import load_catalog

CANARY = "xylophone-canary-9417"
STORY = [{"role": "user", "content": "Tell a long story about a ship."}]


def test_one_trace_of_a_streamed_chat_tells_where_its_time_went(cluster):
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    body = {"model": CHAT, "messages": STORY, "stream": True, "max_tokens": 150, "ignore_eos": True}
    with httpx.Client(base_url=cluster.address, timeout=60, trust_env=False) as http:
        http.get("/healthz")
        began = time.perf_counter()
        headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "traced-1"}
        with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
            assert stream.status_code == 200
            lines = list(stream.iter_lines())
        took = time.perf_counter() - began
    assert lines[-2:] == ["data: [DONE]", ""]

    spans = cluster.collector.trace(trace, count=4)
    by_name = {span.name: span for span in spans}
    request, call = by_name["POST /v1/chat/completions"], by_name[f"call {CHAT}"]
    queue, engine = by_name["queue"], by_name["engine chat"]
    assert (request.parent, call.parent) == (parent, request.id)
    assert (queue.parent, engine.parent) == (call.id, call.id)
    assert (request.service, engine.service) == ("medley-router", "medley-model")
    assert request.attributes["medley.request_id"] == "traced-1"
    assert request.attributes["http.response.status_code"] == 200
    assert engine.attributes["gen_ai.usage.output_tokens"] == 150
    assert engine.events == ["first item"]
    router = request.seconds - call.seconds
    parts = router + queue.seconds + engine.seconds
    print(f"\nend to end {took:.4f} s: router {router:.4f}, queue {queue.seconds:.4f}, engine {engine.seconds:.4f}")
    assert parts == pytest.approx(took, rel=0.02)


def test_a_request_that_no_one_wants_traced_is_not(cluster, http):
    before = len(cluster.collector.spans)
    assert http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"}).is_success
    time.sleep(2)
    assert len(cluster.collector.spans) == before


def test_server_timing_tells_router_queue_and_engine(http):
    began = time.perf_counter()
    response = http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"})
    took_ms = (time.perf_counter() - began) * 1000
    parts = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])}
    assert set(parts) == {"router", "queue", "engine"}
    assert min(parts.values()) >= 0
    assert 0 < sum(parts.values()) <= took_ms


def test_one_request_is_followed_from_the_edge_to_the_engine(http):
    body = {"model": CHAT, "messages": STORY, "max_tokens": 3}
    assert http.post("/v1/chat/completions", json=body, headers={"x-request-id": "follow-me-1"}).is_success
    text = ""
    deadline = time.monotonic() + 10
    while text.count("\n") < 2 and time.monotonic() < deadline:
        text = subprocess.run(
            [*MEDLEY, "logs", "follow-me-1"], capture_output=True, text=True, check=False, cwd=ROOT
        ).stdout
    assert "/v1/chat/completions 200" in text
    assert f"{CHAT} chat ok" in text
    assert "engine_ms=" in text
    assert "completion_tokens=3" in text


def test_no_text_of_a_request_is_in_any_log(http):
    bodies = [
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4}),
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": CANARY, "content": "x"}]}),
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": CANARY}], CANARY: 1}),
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": CANARY * 4000}]}),
        ("/v1/completions", {"model": CHAT, "prompt": CANARY, "max_tokens": 2, "stream": True}),
        ("/v1/completions", {"model": CHAT, "prompt": "x", "logit_bias": {CANARY: 1}}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": CANARY}),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": [CANARY * 500]}),
        ("/v1/embeddings", {"model": CANARY, "input": "x"}),
        ("/tokenize", {"model": CHAT, "prompt": CANARY}),
        ("/tokenize", {"model": CHAT, "messages": [{"role": "tool", "content": CANARY}]}),
    ]
    statuses = Counter(http.post(path, json=body).status_code for path, body in bodies)
    assert statuses[200] >= 4
    assert statuses[400] >= 4
    http.post("/v1/chat/completions", content=f'{{"model": {CANARY}'.encode(), headers={"content-type": "text/json"})
    time.sleep(2)
    folder = local.logs().resolve().parent
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [str(file) for file in files if CANARY.encode() in file.read_bytes()] == []


class ConstantLoad:
    """Embeds one text at a constant rate, whatever the answers do, from an event loop in a thread of its own."""

    def __init__(self, address: str, rate: float):
        self.address, self.rate = address, rate
        self.statuses: Counter[int | str] = Counter()
        self.slowest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    async def _run(self):
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self.address, timeout=300, trust_env=False, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            due = time.monotonic()
            while not self._stop.is_set():
                group.create_task(self._one(http))
                due += 1 / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _one(self, http):
        began = time.monotonic()
        try:
            response = await http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "a ship"})
            self.statuses[response.status_code] += 1
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)


def capacity(address: str, seconds: float = 4.0) -> float:
    """Requests a second that eight clients get answered, this machine's share for the clients taken off."""

    async def measure():
        async def client(http):
            count = 0
            while time.monotonic() < end:
                assert (await http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "a ship"})).is_success
                count += 1
            return count

        async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as http:
            end = time.monotonic() + seconds
            return sum(await asyncio.gather(*(client(http) for _ in range(8)))) / seconds

    return asyncio.run(measure())


def spoil_torch_weights() -> tuple[Path, bytes]:
    """Zeros where the header of the file should be: its size is right, and it cannot be loaded."""
    spec = load_catalog()[EMBEDDINGS]
    file = weights.locate(spec, spec.variant("torch")) / "model.safetensors"
    head = file.read_bytes()[:64]
    with file.open("r+b") as stream:
        stream.write(bytes(64))
    return file, head


def without_promises(document: dict[str, Any]) -> dict[str, Any]:
    (router,) = [one for one in document["applications"] if one["name"] == "router"]
    others = [one for one in document["applications"] if one is not router]
    return document | {"applications": [*others, router | {"args": router["args"] | {"promises": None}}]}


def with_a_long_queue(document: dict[str, Any]) -> dict[str, Any]:
    """A start takes a core for seconds; on two cores what arrives meanwhile must be able to wait, longer than is
    promised. One replica, or the autoscaler answers that queue with a second one and the processes say nothing about
    the upgrade."""
    (entry,) = [one for one in document["applications"] if one["name"] == EMBEDDINGS]
    entry["deployments"][0]["max_queued_requests"] = 2000
    entry["deployments"][0]["autoscaling_config"]["max_replicas"] = 1
    return without_promises(document)


def test_upgrade_failed_upgrade_and_rollback_under_constant_load(cluster):
    cluster.deploy(with_a_long_queue(cluster.with_args(EMBEDDINGS)))
    rate = 0.4 * capacity(cluster.address)  # more, and on a slow machine a replica takes minutes to start
    old = cluster.pids()

    with ConstantLoad(cluster.address, rate) as upgrade:
        cluster.deploy(with_a_long_queue(cluster.with_args(EMBEDDINGS, release="2")))
    second = cluster.pids()
    print(f"\nupgrade at {rate:.0f}/s: {dict(upgrade.statuses)}, slowest {upgrade.slowest:.2f} s")
    assert second[EMBEDDINGS] != old[EMBEDDINGS]
    assert (second[CHAT], second["router"]) == (old[CHAT], old["router"])
    assert set(upgrade.statuses) == {200}

    broken = with_a_long_queue(cluster.with_args(EMBEDDINGS, variant="torch", release="3"))
    file, head = spoil_torch_weights()
    try:
        with ConstantLoad(cluster.address, rate) as failure:
            failed = subprocess.run(
                [*MEDLEY, "deploy", str(cluster.written(broken))],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                timeout=300,
            )
            state = httpx.get(f"{cluster.address}/readyz", trust_env=False).json()["models"][EMBEDDINGS]
    finally:
        with file.open("r+b") as stream:
            stream.write(head)
    print(f"failed upgrade: {dict(failure.statuses)}, slowest {failure.slowest:.2f} s\n{failed.stderr}")
    assert failed.returncode == 1
    assert "It failed in the phase load (SafetensorError)." in failed.stderr
    assert "still serves" in failed.stderr
    assert "medley rollback" in failed.stderr
    assert set(failure.statuses) == {200}
    assert cluster.pids()[EMBEDDINGS] == second[EMBEDDINGS]
    assert state["state"] == "ready"
    assert state["cause"] == "It failed in the phase load (SafetensorError)."

    with ConstantLoad(cluster.address, rate) as back:
        print(run([*MEDLEY, "rollback", "--yes"]))  # to what went live before the failure
        print(run([*MEDLEY, "rollback", "--yes"]))  # to what was there before the upgrade
    print(f"rollback: {dict(back.statuses)}, slowest {back.slowest:.2f} s")
    assert set(back.statuses) == {200}
    assert (cluster.pids()[CHAT], cluster.pids()["router"]) == (old[CHAT], old["router"])
    readyz = httpx.get(f"{cluster.address}/readyz", trust_env=False).json()
    assert readyz["ready"]
    assert readyz["models"][EMBEDDINGS]["release"] == "1"
    assert "cause" not in readyz["models"][EMBEDDINGS]
    cluster.deploy(cluster.document)


def starting(app: str) -> list[int]:
    """Process ids of the replicas that are on their way."""
    deployments = local.applications()[app]["deployments"].values()
    replicas = [replica for deployment in deployments for replica in deployment["replicas"]]
    return [replica["pid"] for replica in replicas if replica.get("pid") and replica["state"] == "STARTING"]


def test_an_engine_that_dies_while_it_loads_is_told_of_and_the_old_one_serves(cluster):
    before = cluster.pids()
    config = cluster.written(cluster.with_args(EMBEDDINGS, variant="torch", release="4"))
    deploying = subprocess.Popen(
        [*MEDLEY, "deploy", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    killed = 0
    while deploying.poll() is None:
        for pid in set(starting(EMBEDDINGS)) - set(before[EMBEDDINGS]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.3)
    _, message = deploying.communicate()
    print(f"\nkilled {killed} times\n{message}")
    assert deploying.returncode == 1
    assert killed
    assert "Its process died in the phase" in message
    assert cluster.pids() == before
    assert httpx.post(
        f"{cluster.address}/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"}, trust_env=False
    ).is_success
    doctor = subprocess.run([*MEDLEY, "doctor", EMBEDDINGS], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "died in the phase" in doctor.stdout
    cluster.deploy(cluster.document)


def test_a_client_says_whether_it_waits_for_a_model_that_sleeps(cluster, http):
    document = cluster.with_args(EMBEDDINGS)
    (entry,) = [one for one in document["applications"] if one["name"] == EMBEDDINGS]
    entry["deployments"][0]["autoscaling_config"] |= {
        "min_replicas": 0,
        "downscale_delay_s": 2,
        "downscale_to_zero_delay_s": 2,
    }
    cluster.deploy(document)
    deadline = time.monotonic() + 60
    while http.get(f"/v1/models/{EMBEDDINGS}").json()["state"] != "scaled_to_zero" or cluster.pids()[EMBEDDINGS]:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    body = {"model": EMBEDDINGS, "input": "wake up"}
    refused = http.post("/v1/embeddings", json=body, headers={"prefer": "wait=0"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_starting"
    promised = int(refused.headers["retry-after"])
    began = time.monotonic()
    assert http.post("/v1/embeddings", json=body, headers={"prefer": "wait=60"}).is_success
    waited = time.monotonic() - began
    print(f"\nRetry-After said {promised} s; the model was there after {waited:.1f} s")
    assert waited < 5 * promised
    cluster.deploy(cluster.document)


def test_status_and_doctor_find_nothing_wrong(cluster):
    assert json.loads(run([*MEDLEY, "status", "--json"]))
    assert "finding" not in run([*MEDLEY, "doctor"])
    assert psutil.Process(cluster.pids()[CHAT][0]).is_running()


def test_an_upgrade_in_place_cuts_no_stream_and_those_who_wait_are_served(cluster):
    """Two chat models do not fit on two cores, so the old one goes first. Last, because it takes a minute. Without
    promises, which a slow machine cannot keep while a model starts: the router would refuse."""
    finished, waited = [], []
    cluster.deploy(without_promises(cluster.document))

    def read_a_long_answer():
        body = {"model": CHAT, "messages": STORY, "stream": True, "max_tokens": 600, "ignore_eos": True}
        with (
            httpx.Client(base_url=cluster.address, timeout=300, trust_env=False) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as stream,
        ):
            lines = [line for line in stream.iter_lines() if line]
            finished.append((stream.status_code, len(lines), lines[-1]))

    def ask_and_wait():
        body = {"model": CHAT, "messages": STORY, "max_tokens": 4}
        with httpx.Client(base_url=cluster.address, timeout=300, trust_env=False) as http:
            while not deployed.is_set():
                waited.append(http.post("/v1/chat/completions", json=body, headers={"prefer": "wait=240"}).status_code)

    deployed = threading.Event()
    threads = [threading.Thread(target=read_a_long_answer), threading.Thread(target=ask_and_wait)]
    before = cluster.pids()[CHAT]
    for thread in threads:
        thread.start()
    time.sleep(2)
    try:
        cluster.deploy(without_promises(cluster.with_args(CHAT, release="2")))
    finally:
        deployed.set()
        for thread in threads:
            thread.join()
    print(f"\nanswers during the upgrade: {Counter(waited)}; the long one: {finished}")
    assert cluster.pids()[CHAT] != before
    cluster.deploy(cluster.with_args(CHAT, release="2"))
    ((status, count, last),) = finished
    assert (status, last) == (200, "data: [DONE]")
    assert count > 500
    assert set(waited) == {200}
