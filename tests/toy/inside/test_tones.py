"""The added task as its users see it. These tests run in the copy to which it was added."""

import contextlib
import io
import json
import subprocess
import sys
import threading
import wave
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvicorn
import yaml
from local_dispatcher import LocalDispatcher
from patience import wait_until
from replicas import at_once, started
from typer.testing import CliRunner

from deployments.metering import MemoryMeter
from deployments.router.application import create_application
from deployments.router.services import Services
from deployments.telemetry import BATCH_SIZE, REAL_TIME_FACTOR
from medley.checks.command import check
from medley.look.diagnosis import replicas as diagnosis
from medley.main import app
from medley.monitoring.objectives import objectives
from medley.monitoring.panels import rows
from models.catalog import load_catalog
from models.slo import load_slo

ROOT = Path(__file__).resolve().parents[3]
MODEL = "sine"


class Cluster:
    """A router and the model, served over HTTP."""

    def __init__(self):
        self.meter = MemoryMeter()
        server = at_once(started(load_catalog()[MODEL], meter=self.meter))
        services = Services(load_catalog(), LocalDispatcher({MODEL: server}), self.meter)
        self.server = uvicorn.Server(uvicorn.Config(create_application(services), "127.0.0.1", 0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)

    @contextlib.contextmanager
    def running(self):
        self.thread.start()
        wait_until(lambda: self.server.started, "the server listens")
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            self.server.should_exit = True
            self.thread.join()


@pytest.fixture(scope="module")
def cluster():
    with Cluster().running() as cluster:
        yield cluster


def played(cluster, **body):
    return httpx.post(f"{cluster.address}/v1/audio/tones", json={"model": MODEL, **body})


def samples(data):
    with wave.open(io.BytesIO(data)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2"), sound.getframerate()


@pytest.mark.parametrize(("pitch", "letter", "hertz"), [("low", "m", 220), ("high", "a", 440), ("high", "m", 880)])
def test_each_letter_has_its_tone(cluster, pitch, letter, hertz):
    answer = played(cluster, input=letter * 4, pitch=pitch)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    values, rate = samples(answer.content)
    assert len(values) / rate == float(answer.headers["x-audio-seconds"]) == pytest.approx(0.2)
    strongest = np.abs(np.fft.rfft(values)).argmax() * rate / len(values)
    assert strongest == pytest.approx(hertz, rel=0.03)


def test_a_pitch_that_there_is_not(cluster):
    error = played(cluster, input="a", pitch="middle").json()["error"]
    assert (error["param"], error["message"]) == ("pitch", "sine has the pitches high, low, not 'middle'.")


def test_requests_at_once_share_batches(cluster):
    before = cluster.meter.total(BATCH_SIZE, MODEL)
    threads = [threading.Thread(target=played, args=(cluster,), kwargs={"input": "a" * 500}) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < cluster.meter.total(BATCH_SIZE, MODEL) - before <= 12


def test_the_page_of_the_api_has_it(cluster):
    operation = httpx.get(f"{cluster.address}/openapi.json").json()["paths"]["/v1/audio/tones"]["post"]
    assert operation["tags"] == ["Sound"]
    assert operation["responses"]["200"]["content"] == {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}
    assert operation["requestBody"]["content"]["application/json"]["example"]["pitch"] == "low"


def test_the_doctor_asks_for_it(cluster):
    patient = SimpleNamespace(
        status=SimpleNamespace(state="ready"),
        spec=load_catalog()[MODEL],
        model=MODEL,
        name=MODEL,
        live=SimpleNamespace(edge=cluster.address),
        client=httpx.Client(),
    )
    finding = diagnosis.answers(patient)
    assert finding.ok
    assert finding.text.startswith("Answered after")


def test_its_sound_is_measured(cluster):
    before = cluster.meter.total(REAL_TIME_FACTOR, MODEL)
    assert played(cluster, input="abc").status_code == 200
    assert cluster.meter.total(REAL_TIME_FACTOR, MODEL) == before + 1


def test_the_dashboard_shows_it():
    shown = {target.expr for row in rows(load_catalog()) for panel in row.panels for target in panel.targets}
    for series in ("medley_audio_seconds_total", "medley_characters_total", "medley_real_time_factor_bucket"):
        assert any(series in expr for expr in shown), series


PROMISE = {"real_time_factor": 5, "good": 0.95, "availability": 0.999}


def slo(folder, **changes):
    file = folder / "slo.yaml"
    file.write_text(yaml.safe_dump({"profiles": {"cpu": {"tasks": {"tones": PROMISE | changes}}}}))
    return file


def test_a_promise_on_its_sound_is_an_objective_and_the_default_holds_without(tmp_path):
    (promise, _) = objectives(load_slo(slo(tmp_path)), "cpu")
    assert (promise.task, promise.indicator, promise.limit) == ("tones", "real_time_factor", 5)
    assert "medley_real_time_factor" in promise.requests("5m")
    by_default = load_slo(ROOT / "slo.yaml").targets(load_catalog()[MODEL].task, MODEL, "cpu")
    assert (by_default.duration_s, by_default.real_time_factor) == (30, None)


@pytest.mark.parametrize(("limit", "code"), [(5, 0), (0.000001, 1)], ids=["kept", "broken"])
def test_a_load_test_asks_for_its_example_and_judges_the_promise(cluster, tmp_path, limit, code):
    scenario = {"proves": "It plays.", "stages": [{"rate": 60, "seconds": 1}], "parts": [{"task": "tones"}]}
    file = tmp_path / "scenario.yaml"
    file.write_text(json.dumps(scenario | {"warm_up": 1, "drain_s": 20, "burstiness": 100}))
    command = [
        sys.executable, "-m", "locust", "-f", ROOT / "loadtest" / "locustfile.py", "--headless", "--only-summary",
        "--host", cluster.address, "--scenario", file, "--slo", slo(tmp_path, real_time_factor=limit),
        "--report", tmp_path / "report",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    records = [json.loads(line) for line in (tmp_path / "report" / "records.jsonl").read_text().splitlines()]
    assert len(records) > 20
    assert {(one["status"], one["complete"], one["why"]) for one in records} == {(200, True, "")}
    assert {round(one["audio_s"], 2) for one in records} == {0.4}
    assert done.returncode in (code, 3), done.stdout + done.stderr  # 3: a busy machine proves nothing
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (rule,) = [rule for rule in report["rules"] if rule["rule"] == "goodput"]
    assert (rule["value"] == 0) == bool(code)


def test_a_cluster_can_be_configured_with_it(tmp_path):
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    (entry,) = [one for one in config["applications"] if one["name"] == "all-minilm-l6-v2"]
    entry |= {"name": MODEL, "args": {"model": MODEL, "release": "1"}}
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code == 0, done.output
    assert check is not None
