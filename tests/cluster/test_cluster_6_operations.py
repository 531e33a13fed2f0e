"""What an operator sees: where the time of a request went, its way through the logs (without its text), how all is."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from cluster_metrics import names, total
from local_cluster import CHAT, EMBEDDINGS, MEDLEY, finished, run
from patience import patience, wait_until

from deployments.telemetry import METRICS, Kind
from medley.local import cluster as local
from medley.local.home import cluster_environment

CANARY = "xylophone-canary-9417"
STORY = [{"role": "user", "content": "Tell a long story about a ship."}]


def test_one_trace_of_a_streamed_chat_tells_where_its_time_went(cluster, http):
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    body = {"model": CHAT, "messages": STORY, "stream": True, "max_tokens": 30, "ignore_eos": True}
    http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "not traced"}).raise_for_status()
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "traced-1"}
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
        assert stream.status_code == 200
        lines = list(stream.iter_lines())
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
    assert engine.attributes["gen_ai.usage.output_tokens"] == 30
    assert engine.events == ["first item"]
    assert request.seconds >= call.seconds >= engine.seconds > 0
    assert {span.trace for span in cluster.collector.spans} == {trace}, "a request is traced that no one wants traced"


def test_server_timing_tells_router_queue_and_engine(http):
    response = http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"})
    parts = {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])}
    assert set(parts) == {"router", "queue", "engine"}
    assert min(parts.values()) >= 0
    assert 0 < sum(parts.values()) <= response.elapsed.total_seconds() * 1000


def test_one_request_is_followed_from_the_edge_to_the_engine(http):
    body = {"model": CHAT, "messages": STORY, "max_tokens": 3}
    assert http.post("/v1/chat/completions", json=body, headers={"x-request-id": "follow-me-1"}).is_success

    def followed() -> str:
        text = finished([*MEDLEY, "logs", "follow-me-1"]).stdout
        return text if text.count("\n") >= 2 else ""

    text = wait_until(followed, "the lines of a request in the logs")
    assert "/v1/chat/completions 200" in text
    assert f"{CHAT} chat ok" in text
    assert "engine_ms=" in text
    assert "completion_tokens=3" in text


def logged() -> dict[str, bytes]:
    """Every log of the session: Serve's, Ray's and vLLM's."""
    folder = local.logs().resolve().parent
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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
        ("/v1/images/generations", {"model": "doodle", "prompt": CANARY, "steps": 2}),
        ("/tokenize", {"model": CHAT, "prompt": CANARY}),
        ("/tokenize", {"model": CHAT, "messages": [{"role": "tool", "content": CANARY}]}),
    ]
    answers = [
        http.post(path, json=body, headers={"x-request-id": f"canary-{number}"})
        for number, (path, body) in enumerate(bodies)
    ]
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] >= 5
    assert statuses[400] >= 4
    http.post(
        "/v1/chat/completions",
        content=f'{{"model": {CANARY}'.encode(),
        headers={"content-type": "text/json", "x-request-id": "canary-last"},
    )
    ids = [*(f"canary-{number}".encode() for number in range(len(bodies))), b"canary-last"]
    wait_until(
        lambda: all(any(one in text for text in logged().values()) for one in ids), "each in the logs", every=0.5
    )
    assert [name for name, text in logged().items() if CANARY.encode() in text] == []


def test_every_metric_is_there_and_counts(http):
    """Those that only an overload or a failure gives a value are left out."""
    body = {"model": EMBEDDINGS, "input": "one more"}
    before = total("ray_medley_requests_total", f'model="{EMBEDDINGS}"', 'status="200"')
    for _ in range(3):
        http.post("/v1/embeddings", json=body).raise_for_status()

    def counted() -> bool:
        return total("ray_medley_requests_total", f'model="{EMBEDDINGS}"', 'status="200"') >= before + 3

    wait_until(counted, "three requests to be counted", every=0.3)
    there = names()
    expected = {f"{one.series}_bucket" if one.kind is Kind.HISTOGRAM else one.series for one in METRICS}
    assert expected - there == set()


def test_status_and_doctor_find_nothing_wrong(cluster):
    status = json.loads(run([*MEDLEY, "status", "--json"]))
    assert status
    reports = json.loads(run([*MEDLEY, "doctor", "--json"]))
    assert {report["model"] for report in reports} == {app for app in cluster.pids() if app != "router"}
    assert all(report["healthy"] for report in reports)


def test_routers_give_each_other_notice_and_share_the_key_of_digests(cluster):
    script = str(Path(__file__).parent / "notices_on_ray.py")
    run(["timeout", f"{patience(120):.0f}", sys.executable, script], env=cluster_environment())


@pytest.fixture(autouse=True)
def needs_the_cluster(cluster):
    """Also for a test that reads files only."""
