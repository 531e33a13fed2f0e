"""What a change of one model does to the others: nothing. Process ids are the proof."""

import contextlib
import os
import sys
import threading
from pathlib import Path

import httpx
import psutil
from starter_cluster import CHAT, EMBEDDINGS, ROOT, run

from medley import cluster as local
from medley.home import client_environment
from medley.preflight import DASHBOARD_PORT


class ChattingClient:
    """Asks one model in a loop, from a thread, and keeps every status."""

    def __init__(self, address):
        self.address = address
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        body = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        with httpx.Client(base_url=self.address, timeout=60, trust_env=False) as http:
            while not self._stop.is_set():
                self.statuses.append(http.post("/v1/chat/completions", json=body).status_code)


def test_changing_removing_and_adding_a_model_restarts_nothing_else(cluster, client, http):
    before = cluster.pids()
    with ChattingClient(cluster.address) as chatting:
        cluster.deploy(cluster.with_args(EMBEDDINGS, variant="torch"))
        changed = cluster.pids()
        assert changed[EMBEDDINGS] != before[EMBEDDINGS]
        assert http.get("/readyz").json()["models"][EMBEDDINGS]["variant"] == "torch"
        assert len(client.embeddings.create(model=EMBEDDINGS, input="hi").data[0].embedding) == 384

        cluster.deploy(cluster.without(EMBEDDINGS))
        gone = cluster.pids()
        assert EMBEDDINGS not in gone
        refusal = http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"})
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_not_deployed")

        cluster.deploy(cluster.document)
        added = cluster.pids()
        assert len(client.embeddings.create(model=EMBEDDINGS, input="hi").data[0].embedding) == 384
    for later in (changed, gone, added):
        assert later[CHAT] == before[CHAT]
        assert later["router"] == before["router"]
    assert len(chatting.statuses) > 20
    assert set(chatting.statuses) == {200}


def test_the_same_document_again_restarts_nothing(cluster):
    before = cluster.pids()
    cluster.deploy(cluster.document)
    assert cluster.pids() == before


def test_rays_own_serve_deploy_takes_the_same_file(cluster):
    before = cluster.pids()
    environment = {**os.environ, **client_environment(DASHBOARD_PORT)}
    serve = Path(sys.executable).parent / "serve"
    run([str(serve), "deploy", str(ROOT / "serve_config.yaml")], env=environment)
    assert cluster.pids() == before
    assert "RUNNING" in run([str(serve), "status"], env=environment)


def test_an_onnx_replica_and_the_router_hold_no_torch(cluster):
    pids = cluster.pids()
    for app in (EMBEDDINGS, "router"):
        mapped = Path(f"/proc/{pids[app][0]}/maps").read_text()
        assert "libtorch" not in mapped
    assert "onnxruntime" in Path(f"/proc/{pids[EMBEDDINGS][0]}/maps").read_text()


def test_every_listener_of_the_edge_is_on_loopback(cluster):
    edge = []
    for process in local.processes():
        with contextlib.suppress(psutil.Error):
            edge += [c.laddr for c in process.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == 8000]
    assert edge
    assert {address.ip for address in edge} == {"127.0.0.1"}
