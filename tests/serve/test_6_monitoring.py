"""Every panel, rule and alert against a real Prometheus that scrapes the running cluster."""

import base64
import shutil
import threading
import time

import httpx
import pytest
from live_prometheus import ROOT, Prometheus
from starter_cluster import CHAT, EMBEDDINGS

from deployments.telemetry import METRICS, Kind
from medley.monitoring.files import expressions
from models.catalog import load_catalog
from models.slo import load_slo

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR4nGOM6tFgIAUwkaR6VMOohiGlAQBtMwEuC5lyeQAAAABJRU5ErkJggg=="
)

# What the traffic of this test gives no reason to be there.
NO_REASON = ("429", "refused")


class Traffic:
    """Streams, embeddings and some bad requests, from threads, until it is stopped."""

    def __init__(self, address: str):
        self.address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(self._chat,)) for _ in range(2)]
        others = (self._embed, self._fail, self._paint, self._upscale, self._style)
        self._threads += [threading.Thread(target=self._run, args=(one,)) for one in others]

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, ask):
        with httpx.Client(base_url=self.address, timeout=120, trust_env=False) as http:
            while not self._stop.is_set():
                ask(http)
                time.sleep(0.05)

    def _chat(self, http):
        messages = [{"role": "user", "content": "Count to ten."}]
        body = {"model": CHAT, "messages": messages, "max_tokens": 20, "stream": True}
        assert http.post("/v1/chat/completions", json=body).status_code in (200, 429)  # it may be too busy

    def _embed(self, http):
        body = {"model": EMBEDDINGS, "input": ["one", "two", "three"]}
        assert http.post("/v1/embeddings", json=body).status_code in (200, 429)

    def _paint(self, http):
        body = {"model": "doodle", "prompt": "a red circle", "steps": 2}
        assert http.post("/v1/images/generations", json=body).is_success

    def _upscale(self, http):
        files = {"image": ("dot.png", DOT, "image/png")}
        assert http.post("/v1/images/upscales", data={"model": "realesr-animevideov3"}, files=files).is_success

    def _style(self, http):
        files = {"image": ("dot.png", DOT, "image/png")}
        form = {"model": "magenta-styles", "style": load_catalog()["magenta-styles"].styles[0]}
        assert http.post("/v1/images/styles", data=form, files=files).is_success

    def _fail(self, http):
        assert http.post("/v1/chat/completions", json={"model": CHAT, "messages": []}).status_code == 400
        assert http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": ""}).status_code == 400


@pytest.fixture(scope="module")
def prometheus(cluster, tmp_path_factory):
    if not shutil.which("prometheus"):
        pytest.skip("there is no prometheus here; on Debian: apt-get install prometheus")
    server = Prometheus(tmp_path_factory.mktemp("prometheus"))
    try:
        with Traffic(cluster.address):
            time.sleep(45)  # Ray publishes every ten seconds; a rate needs two different counts
            yield server
    finally:
        server.stop()


def test_every_metric_of_the_table_is_there(prometheus):
    names = set(prometheus.get("/api/v1/label/__name__/values"))
    for metric in METRICS:
        expected = f"{metric.series}_bucket" if metric.kind is Kind.HISTOGRAM else metric.series
        assert expected in names


def test_every_panel_and_rule_is_answered(prometheus):
    slo = load_slo(ROOT / "slo.yaml")
    answers = {query.where: prometheus.ask(query.expr) for query in expressions(slo, "cpu")}
    assert len(answers) > 30
    empty = [where for where, answer in answers.items() if not answer and not where.startswith("alert ")]
    assert [where for where in empty if not any(word in where for word in NO_REASON)] == []
    firing = [where for where, answer in answers.items() if answer and where.startswith("alert ")]
    assert not [where for where in firing if "Silent" in where or "Failed" in where or "Loading" in where]


def test_no_label_has_many_values(prometheus):
    for metric in METRICS:
        name = f"{metric.series}_count" if metric.kind is Kind.HISTOGRAM else metric.series
        series = prometheus.ask(name)
        assert 0 < len(series) < 60, f"{name} has {len(series)} series"
        for one in series:
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
