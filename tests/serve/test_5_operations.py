"""What is deployed, fails and is taken back while clients ask, who notice nothing. The models are fakes where the
engine is not the point."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import Ask, Asking, ask_chat, ask_embeddings
from fake_models import DAMAGED, FAKE_CHAT, FAKE_EMBEDDINGS, PROMISED, WORDS_OF_A_SECOND, asked
from local_cluster import COMMAND_S, EMBEDDINGS, MEDLEY, REQUEST_S, ROOT, application, applications, run
from patience import patience

from medley.local.home import client_environment
from medley.local.preflight import DASHBOARD_PORT
from medley.look.live import replicas_of

CHATS = "/v1/chat/completions"
# Of a client that would rather wait than be told that a model starts.
WAIT = {"prefer": f"wait={patience(REQUEST_S):.0f}"}


def chat_or_wait(http):
    return http.post(CHATS, json=asked(FAKE_CHAT, 4), headers=WAIT)


def chat_with_the_promised(http):
    return http.post(CHATS, json=asked(PROMISED, 4))


def embed_with_the_fake(http):
    return http.post("/v1/embeddings", json={"model": FAKE_EMBEDDINGS, "input": "a ship"})


def paced(ask: Ask) -> Ask:
    """With pauses that leave a slow machine time to start replicas."""

    def ask_and_pause(http: httpx.Client) -> httpx.Response:
        time.sleep(0.1)
        return ask(http)

    return ask_and_pause


@contextlib.contextmanager
def served_throughout(address: str, *asks: Ask) -> Iterator[None]:
    """Clients that ask all the time and are all answered, before, while and after something happens."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Asking(address, paced(ask))) for ask in asks]
        for client in clients:
            client.until_answered()
        yield
        for client in clients:
            client.until_answered()
    print(f"\nanswers meanwhile: {[dict(client.statuses) for client in clients]}")
    assert [set(client.statuses) for client in clients] == [{200}] * len(clients)


def pids(cluster) -> dict[str, list[int]]:
    """Of the router and the models that never sleep; others may fall asleep at any time."""
    awake = {"router"} | {
        one["name"]
        for one in cluster.document["applications"]
        if one["deployments"][0].get("autoscaling_config", {}).get("min_replicas")
    }
    return {app: found for app, found in cluster.pids().items() if app in awake}


@pytest.fixture(autouse=True)
def beginning(cluster):
    """The group's document, whatever the test before did."""
    cluster.deploy(cluster.document)


@contextlib.contextmanager
def deploying(cluster, document: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """`medley deploy`, while something else is done."""
    words = [*MEDLEY, "deploy", str(cluster.written(document)), "--yes", "--patience", f"{patience(COMMAND_S):.0f}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()  # it has ended, unless the test failed
        process.communicate()


def replicas(app: str, state: str) -> list[int]:
    """Process ids of an application's replicas in a state of Serve's."""
    found = replicas_of(applications().get(app, {}))
    return [replica["pid"] for replica in found if replica.get("pid") and replica["state"] == state]


def readyz(cluster) -> dict[str, Any]:
    return httpx.get(f"{cluster.address}/readyz", timeout=patience(), trust_env=False).json()


def test_rays_own_serve_deploy_takes_the_same_file(cluster):
    before = pids(cluster)
    environment = {**os.environ, **client_environment(DASHBOARD_PORT)}
    serve = str(Path(sys.executable).parent / "serve")
    run([serve, "deploy", str(cluster.written(cluster.document))], env=environment)
    assert "RUNNING" in run([serve, "status"], env=environment)
    assert pids(cluster) == before


class LongAnswers:
    """Asks for answers of some seconds, each a stream that has to come to its end."""

    def __init__(self, words: int):
        self.words, self.reading = words, False

    def __call__(self, http: httpx.Client) -> httpx.Response:
        lines = []
        with http.stream("POST", CHATS, json=asked(FAKE_CHAT, self.words, stream=True), headers=WAIT) as stream:
            for line in stream.iter_lines():
                self.reading = True
                if line.startswith("data: "):
                    lines.append(line)
        self.reading = False
        assert lines[-1] == "data: [DONE]"
        assert len(lines) == self.words + 2  # one that says why it ended, and that one
        return stream


def test_two_upgrades_at_once_fail_no_request_cut_no_stream_and_touch_no_other_model(cluster):
    """An embedding model switches to its 8-bit variant, which comes up beside the other; a chat model is replaced in
    its place, when a stream that it had begun is at its end. And both back."""
    document = cluster.with_args(EMBEDDINGS, variant="onnx-int8")
    application(document, FAKE_CHAT)["args"]["release"] = "2"
    old, drained = pids(cluster), False
    streams = [LongAnswers(words) for words in (7 * WORDS_OF_A_SECOND, 10 * WORDS_OF_A_SECOND)]
    with served_throughout(cluster.address, *[ask_embeddings] * 4, chat_or_wait, ask_chat, *streams):
        with deploying(cluster, document) as deploy:
            while deploy.poll() is None:
                begun = any(one.reading for one in streams)
                drained = drained or (begun and replicas(FAKE_CHAT, "STOPPING") == old[FAKE_CHAT])
                time.sleep(0.1)
            _, message = deploy.communicate()
        assert deploy.returncode == 0, message
        new, models = pids(cluster), readyz(cluster)["models"]
    assert drained, "no stream was under way when the replica was to stop"
    assert (models[EMBEDDINGS]["variant"], models[FAKE_CHAT]["release"]) == ("onnx-int8", "2")
    assert {app for app in new if new[app] != old[app]} == {EMBEDDINGS, FAKE_CHAT}

    with served_throughout(cluster.address, *[ask_embeddings] * 4, chat_or_wait, ask_chat):
        print(run([*MEDLEY, "rollback", "--yes"]))
    back, models = pids(cluster), readyz(cluster)["models"]
    assert (models[EMBEDDINGS]["variant"], models[FAKE_CHAT]["release"]) == ("onnx", "1")
    assert {app for app in back if back[app] != new[app]} == {EMBEDDINGS, FAKE_CHAT}


def test_upgrades_that_fail_are_told_of_and_the_old_ones_serve(cluster):
    """One whose weights cannot be loaded, and one whose process dies while it loads."""
    document = cluster.with_args(FAKE_EMBEDDINGS, variant=DAMAGED)
    application(document, PROMISED)["args"]["release"] = "2"
    before = pids(cluster)
    killed = 0
    with served_throughout(cluster.address, embed_with_the_fake, chat_with_the_promised, ask_embeddings, ask_chat):
        with deploying(cluster, document) as deploy:
            while deploy.poll() is None:
                for pid in set(replicas(PROMISED, "STARTING")) - set(before[PROMISED]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                time.sleep(0.1)
            _, message = deploy.communicate()
        print(f"\nkilled {killed} times\n{message}")
        assert deploy.returncode == 1
        assert killed
        assert f"{FAKE_EMBEDDINGS} failed: It failed in the phase load (" in message
        assert f"{PROMISED} failed: Its process died in the phase" in message
        assert message.count("1 of its old replicas still serves.") == 2
        assert "`medley rollback` goes back to" in message
        assert pids(cluster) == before
        models = readyz(cluster)["models"]
        assert models[FAKE_EMBEDDINGS]["state"] == models[PROMISED]["state"] == "ready"
        assert models[FAKE_EMBEDDINGS]["cause"].startswith("It failed in the phase load (")
        doctor = subprocess.run([*MEDLEY, "doctor", PROMISED], capture_output=True, text=True, check=False, cwd=ROOT)
        assert "died in the phase" in doctor.stdout

        print(run([*MEDLEY, "rollback", "--yes"]))
    assert pids(cluster) == before
    found = readyz(cluster)
    assert found["ready"]
    assert [app for app, model in found["models"].items() if "cause" in model] == []
