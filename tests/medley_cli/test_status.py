"""`medley models` and `medley status`, over a recorded cluster."""

import copy
import json
import os
import socket

import psutil
import pytest
import typer
from recorded_cluster import CHAT, EMBEDDINGS, RecordedCluster
from typer.testing import CliRunner

from deployments.router.reach import Reach
from medley.local import cluster
from medley.look import live, status
from medley.look.application_status import status_of

APP = typer.Typer()
APP.command()(status.models)
APP.command()(status.status)


@pytest.fixture
def recorded(monkeypatch) -> RecordedCluster:
    recorded = RecordedCluster()
    monkeypatch.setattr(status, "look_here", recorded.live)
    monkeypatch.setattr(cluster, "processes", list)
    return recorded


def run(*command: str):
    return CliRunner().invoke(APP, command)


def row(output: str, app: str) -> list[str]:
    return next(line for line in output.splitlines() if line.startswith(app)).split()


def test_a_healthy_cluster_on_one_screen(recorded):
    done = run("status")
    assert done.exit_code == 0
    assert row(done.output, CHAT)[1:5] == ["ready", "vllm-cpu", "1", "1/1"]
    assert row(done.output, "router")[1] == "ready"
    assert "http://127.0.0.1:8000/v1" in done.output
    assert "2 of 2 models take requests" in done.output
    assert "1.45 of 2 CPU, 4.89 of 22.6 GiB" in done.output
    assert "node 192.0.2.2: 2 CPU (10 % busy), memory 4.4 of 23.5 GiB in use" in done.output


def test_a_loading_model_shows_its_phase_with_seconds_and_percent_only_where_known(recorded):
    recorded.loads("fetch", since=recorded.now - 75, fraction=0.4)
    done = run("status")
    assert done.exit_code == 1
    cells = " ".join(row(done.output, CHAT))
    assert "loading" in cells
    assert "0/1" in cells
    assert "fetch 40 %" in cells
    assert "75 s" in cells
    assert "1 of 2 models take requests" in done.output
    recorded.loads("warm_up", since=recorded.now)
    assert "warm up" in run("status").output
    assert "warm up 0 %" not in run("status").output


def test_a_failed_model_shows_cause_and_remedy(recorded):
    recorded.failed(cause="There was not enough memory.", remedy="Free some.")
    done = run("status")
    assert done.exit_code == 1
    assert f"{CHAT}: There was not enough memory.\n  Free some." in done.output


def test_where_the_router_gives_no_cause_it_is_the_last_line_of_serves_traceback(recorded):
    recorded.failed()
    recorded.down = {"router"}
    found = status_of(recorded.live(), CHAT)
    assert (found.state, found.cause) == ("failed", "MemoryError: cannot allocate 4 GiB")
    assert found.remedy == f"`medley doctor {CHAT}` says more."


@pytest.mark.parametrize(
    ("replicas", "scaling", "said"),
    [
        (1, {"demand": 2.7, "no_room": True}, "demand 2.7 times what 1 of 2 replicas serve; no room for the second"),
        (1, {"demand": 1.5, "ready_in_s": 8.2}, "demand 1.5 times what 1 of 2 replicas serve; the second is ready in"),
        (
            2,
            {"demand": 5, "at_most": True},
            "demand 2.5 times what 2 of 2 replicas serve; that is the most",
        ),
        (1, {"no_room": True}, "more replicas are wanted; no room for the second"),
        (2, {"demand": 1.9, "at_most": True}, ""),
        (1, {"demand": 1.0}, ""),
        (1, {}, ""),
    ],
)
def test_demand_beyond_what_is_served_has_a_line(recorded, replicas, scaling, said):
    told = recorded.ready["models"][EMBEDDINGS]
    told |= {"replicas": replicas, "scaling": {"wanted": 2, "most": 2, **scaling}}
    output = run("status").output
    assert (f"{EMBEDDINGS}: {said}" in output) if said else (f"{EMBEDDINGS}: " not in output)


@pytest.mark.parametrize("limit", ["duration_s", None])
def test_what_is_too_large_for_the_promise_has_a_line(recorded, limit):
    reach = Reach("texts of 64 tokens", 1, 2048, 900, limit, 1)
    recorded.ready["models"][EMBEDDINGS]["reach"] = reach.document()
    told = f"{EMBEDDINGS}: keeps its promise alone up to 900 texts of 64 tokens (of 2048): duration 1 s"
    assert (told in run("status").output) is (limit is not None)
    (found,) = [one for one in json.loads(run("status", "--json").output)["applications"] if one["app"] == EMBEDDINGS]
    assert found["reach"] == reach.document()


def test_nobody_answers(recorded):
    recorded.down = {"serve", "router", "ray", "nodes"}
    done = run("status")
    assert done.exit_code == 2
    assert "`medley up` starts one" in done.output


def test_each_source_may_be_down_and_the_others_still_show(recorded):
    recorded.down = {"serve", "ray", "nodes"}
    done = run("status")
    assert done.exit_code == 0  # clients are served
    assert row(done.output, CHAT)[1] == "ready"
    assert "Ray's dashboard (port 8265) does not answer" in done.output
    assert "reserved: unknown" in done.output
    recorded.down = {"router"}
    done = run("status")
    assert done.exit_code == 1  # Serve says that all runs, and clients get nothing
    assert row(done.output, CHAT)[1] == "ready"
    assert "The router (http://127.0.0.1:8000) does not answer" in done.output


def test_where_haproxy_does_not_answer_the_router_itself_is_asked(recorded, monkeypatch):
    recorded.down = {"edge"}
    monkeypatch.setattr(live, "listening", lambda pid: [f"http://127.0.0.1:{30000 + pid % 1000}"])
    done = run("status")
    assert "HAProxy (http://127.0.0.1:8000) does not answer clients" in done.output
    assert "The router does, at http://127.0.0.1:30" in done.output
    assert row(done.output, CHAT)[1] == "ready"


def test_a_routers_own_port_is_found(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert live.listening(os.getpid()) == []
        monkeypatch.setattr(live, "ROUTER_PORTS", range(port, port + 1))
        assert live.listening(os.getpid()) == [f"http://127.0.0.1:{port}"]


def test_the_routers_word_counts_before_serves(recorded):
    recorded.ready["ready"] = False
    recorded.ready["models"][CHAT]["state"] = "draining"
    assert status_of(recorded.live(), CHAT).state == "draining"
    assert run("status").exit_code == 1


def test_a_model_scaled_to_zero_takes_requests(recorded):
    recorded.model(CHAT).update(target_num_replicas=0, replicas=[])
    recorded.down = {"router"}
    assert status_of(recorded.live(), CHAT).takes_requests
    recorded.down = set()
    recorded.ready["models"][CHAT] |= {"state": "scaled_to_zero", "replicas": 0}
    assert run("status").exit_code == 0


def test_an_empty_cluster_is_not_ready(recorded):
    recorded.serve["applications"] = {}
    recorded.ready = {"ready": False, "models": {}}
    done = run("status")
    assert done.exit_code == 1
    assert "no model is deployed" in done.output


def test_status_for_programs(recorded):
    recorded.loads("load", since=recorded.now - 5)
    done = run("status", "--json")
    document = json.loads(done.output)
    assert (done.exit_code, document["ready"], document["reachable"]) == (1, False, True)
    assert document["resources"]["CPU"] == {"used": 1.45, "total": 2.0}
    model = next(one for one in document["applications"] if one["app"] == CHAT)
    assert (model["state"], model["phase"], model["fraction"]) == ("loading", "load", None)
    assert model["phase_s"] == 5


def test_the_edge_is_where_serve_says(recorded):
    recorded.serve["http_options"] |= {"host": "0.0.0.0", "port": 9000}
    assert recorded.live().edge == "http://127.0.0.1:9000"
    assert live.edge_address(None) == "http://127.0.0.1:8000"


def test_a_reservation_that_is_not_used_yet_is_not_free():
    text = " 1.0/8.0 CPU (0.5 used of 2.0 reserved in placement groups)\n 1.00GiB/4.00GiB memory\n"
    usage = live.usage_of(text)
    assert usage["CPU"].used == 2.5
    assert usage["memory"].free == 3


def test_memory_counts_replicas_of_this_cluster_with_their_children(recorded, monkeypatch):
    child = psutil.Popen(["sleep", "30"])
    try:
        recorded.replica(CHAT)["pid"] = os.getpid()
        recorded.replica(EMBEDDINGS)["pid"] = os.getppid()  # lives, and is not of this cluster
        monkeypatch.setattr(cluster, "processes", lambda: [psutil.Process()])
        counted: list[int] = []
        monkeypatch.setattr(cluster, "pss_gib", lambda members: counted.extend(one.pid for one in members) or 1.5)
        assert status.memory_by_application(recorded.live()) == {CHAT: 1.5}
        assert {os.getpid(), child.pid} <= set(counted)
    finally:
        child.kill()
        child.wait()


def test_models_puts_the_catalog_beside_what_runs(recorded, monkeypatch):
    monkeypatch.setattr(status, "weights_missing", lambda spec, variant: "" if spec.id == CHAT else "not here")
    done = run("models")
    assert done.exit_code == 0
    cells = row(done.output, CHAT)
    assert {"vllm-cpu*,", "Apache-2.0", "4.0", "yes", "ready"} <= set(cells)
    assert "not deployed" in " ".join(row(done.output, "bge-m3"))
    rows = {one["id"]: one for one in json.loads(run("models", "--json").output)}
    assert rows[CHAT]["running_variant"] == "vllm-cpu"
    assert rows[CHAT]["needs"] == {"cpus": 1.0, "gpus": 0.0, "memory_gib": 4.0}
    assert (rows["bge-m3"]["state"], rows["bge-m3"]["weights_missing"]) == ("not_deployed", "not here")


def test_models_shows_the_needs_of_the_variant_that_runs(recorded):
    recorded.application(CHAT)["deployed_app_config"]["args"]["variant"] = "transformers"
    recorded.ready["models"][CHAT]["variant"] = "transformers"
    rows = {one["id"]: one for one in json.loads(run("models", "--json").output)}
    assert rows[CHAT]["needs"]["memory_gib"] == 1.5


def test_two_variants_of_a_model_are_two_applications_and_one_model(recorded):
    beside = f"{CHAT}@transformers"
    recorded.serve["applications"][beside] = copy.deepcopy(recorded.application(CHAT))
    recorded.application(beside)["deployed_app_config"]["args"] = {"model": beside}
    assert row(run("status").output, beside)[1:3] == ["ready", "transformers"]
    (of_chat,) = [one for one in json.loads(run("models", "--json").output) if one["id"] == CHAT]
    assert of_chat["running_variants"] == ["vllm-cpu", "transformers"]
    assert of_chat["running_variant"] == "vllm-cpu"
    # Only under the variant's name.
    del recorded.serve["applications"][CHAT], recorded.ready["models"][CHAT]
    (of_chat,) = [one for one in json.loads(run("models", "--json").output) if one["id"] == CHAT]
    assert (of_chat["running_variant"], of_chat["state"]) == ("transformers", "ready")


def test_whether_a_model_is_deployed_is_unknown_when_nobody_answers(recorded):
    recorded.down = {"serve", "router", "ray", "nodes"}
    rows = json.loads(run("models", "--json").output)
    assert {one["state"] for one in rows} == {None}
    assert run("models").exit_code == 0


def test_looking_for_weights_downloads_nothing(recorded, monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def snapshot(repo, **options):
        asked.append(options["local_files_only"])
        raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    rows = {one["id"]: one for one in json.loads(run("models", "--json").output)}
    assert set(asked) == {True}
    assert rows["bge-m3"]["weights_here"] is False
