"""A trace that adds up, and every panel, rule and alert against a real Prometheus that scrapes the running cluster."""

import base64
import shutil
import time
from contextlib import ExitStack, suppress

import pytest
from asking import Asking
from fake_models import AT_ONCE, FAKE_CHAT, PROMISED, QUEUE, WORDS_OF_A_SECOND, asked
from live_prometheus import ROOT, Prometheus
from local_cluster import CHAT, EMBEDDINGS
from patience import wait_until
from promql_expressions import expressions

from deployments.telemetry import METRICS, Kind
from models.catalog import load_catalog
from models.slo import load_slo

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR4nGOM6tFgIAUwkaR6VMOohiGlAQBtMwEuC5lyeQAAAABJRU5ErkJggg=="
)
CHATS = "/v1/chat/completions"


def chat(http):
    messages = [{"role": "user", "content": "Count to ten."}]
    return http.post(CHATS, json={"model": CHAT, "messages": messages, "max_tokens": 20, "stream": True})


def embed(http):
    return http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": ["one", "two", "three"]})


def paint(http):
    return http.post("/v1/images/generations", json={"model": "doodle", "prompt": "a red circle", "steps": 2})


def upscale(http):
    files = {"image": ("dot.png", DOT, "image/png")}
    return http.post("/v1/images/upscales", data={"model": "realesr-animevideov3"}, files=files)


def style(http):
    files = {"image": ("dot.png", DOT, "image/png")}
    form = {"model": "magenta-styles", "style": load_catalog()["magenta-styles"].settings.styles[0]}
    return http.post("/v1/images/styles", data=form, files=files)


def ask_for_nothing(http):
    return http.post(CHATS, json={"model": CHAT, "messages": []})


def crowd_the_queue(http):
    return come_back(http.post(CHATS, json=asked(FAKE_CHAT, WORDS_OF_A_SECOND)))


def crowd_the_promise(http):
    return come_back(http.post(CHATS, json=asked(PROMISED, WORDS_OF_A_SECOND, stream=True)))


def come_back(answer):
    """When it is told to, as a client should."""
    time.sleep(int(answer.headers.get("retry-after", 0)))
    return answer


# What is asked, by how many clients, and what they are answered.
TRAFFIC = [
    (chat, 2, {200}),
    (embed, 1, {200}),
    (paint, 1, {200}),
    (upscale, 1, {200}),
    (style, 1, {200}),
    (ask_for_nothing, 1, {400}),
    (crowd_the_queue, AT_ONCE + QUEUE + 2, {200, 429}),
    (crowd_the_promise, 6 * AT_ONCE, {200, 429}),
]


def series(metric) -> str:
    return f"{metric.series}_bucket" if metric.kind is Kind.HISTOGRAM else metric.series


@pytest.fixture(scope="module")
def prometheus(cluster, tmp_path_factory):
    if not shutil.which("prometheus"):
        pytest.skip("there is no prometheus here; on Debian: apt-get install prometheus")
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    try:
        with ExitStack() as traffic:
            clients = []
            for ask, number, statuses in TRAFFIC:
                for _ in range(number):
                    clients.append((traffic.enter_context(Asking(cluster.address, ask)), statuses))
            yield server
        for client, statuses in clients:
            assert set(client.statuses) <= statuses
            assert client.statuses
    finally:
        server.stop()


def test_the_parts_of_a_long_answers_trace_are_its_time(cluster, http):
    """Nothing of it is told twice, and all but the way between two processes is told."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    body = asked(FAKE_CHAT, 4 * WORDS_OF_A_SECOND, stream=True)
    began = time.perf_counter()
    answer = http.post(CHATS, json=body, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    took = time.perf_counter() - began
    assert answer.text.endswith("data: [DONE]\n\n")
    spans = {span.name: span for span in cluster.collector.trace(trace, count=4)}
    request, call = spans[f"POST {CHATS}"], spans[f"call {FAKE_CHAT}"]
    router, queue, engine = request.seconds - call.seconds, spans["queue"].seconds, spans["engine chat"].seconds
    print(f"\nend to end {took:.4f} s: router {router:.4f}, queue {queue:.4f}, engine {engine:.4f}")
    assert min(router, queue, engine) >= 0
    assert 0.8 * took < router + queue + engine <= took


def test_every_metric_of_the_table_is_there(prometheus):
    expected = {series(metric) for metric in METRICS}
    wait_until(
        lambda: expected <= set(prometheus.get("/api/v1/label/__name__/values")),
        "every metric of the table",
        seconds=60,
        every=0.5,
    )


def test_every_panel_and_rule_is_answered(prometheus):
    """A rate needs two counts that differ, and a refusal more requests than there is room for."""
    slo = load_slo(ROOT / "slo.yaml")
    answers, empty = {}, []

    def answered() -> bool:
        answers.update({query.where: prometheus.ask(query.expr) for query in expressions(slo, "cpu")})
        empty[:] = [where for where, answer in answers.items() if not answer and not where.startswith("alert ")]
        return not empty

    with suppress(AssertionError):  # what is missing says more
        wait_until(answered, "an answer to every panel and rule", seconds=60, every=0.5)
    assert empty == []
    assert len(answers) > 30
    firing = [where for where, answer in answers.items() if answer and where.startswith("alert ")]
    assert not [where for where in firing if "Silent" in where or "Failed" in where or "Loading" in where]


def test_no_label_has_many_values(cluster, prometheus):
    most = 12 * len(cluster.document["applications"])
    for metric in METRICS:
        name = f"{metric.series}_count" if metric.kind is Kind.HISTOGRAM else metric.series
        found = prometheus.ask(name)
        assert 0 < len(found) < most, f"{name} has {len(found)} series"
        for one in found:
            assert "request_id" not in one["metric"]
            assert set(metric.labels) <= set(one["metric"])


def test_the_rules_are_healthy_and_the_targets_up(prometheus):
    groups = prometheus.get("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 10
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    targets = prometheus.get("/api/v1/targets")["activeTargets"]
    assert targets
    assert {target["health"] for target in targets} == {"up"}
    assert prometheus.ask("sum(scrape_samples_post_metric_relabeling)")[0]["value"][1] != "0"
