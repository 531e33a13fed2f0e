"""The harness against servers whose delays are known, as a user runs it."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from known_delays import ROOT, serving

SLO = """
profiles:
  cpu:
    tasks:
      chat: {time_to_first_token_s: 0.5, time_per_output_token_s: 0.1, duration_s: 20, good: 0.95}
      embeddings: {duration_s: 1, good: 0.95}
"""


@dataclass
class Run:
    code: int
    folder: Path
    output: str

    @property
    def report(self):
        return json.loads((self.folder / "report.json").read_text())

    @property
    def records(self):
        return [json.loads(line) for line in (self.folder / "records.jsonl").read_text().splitlines()]

    def rule(self, name, subject=""):
        return next(rule for rule in self.report["rules"] if (rule["rule"], rule["subject"]) == (name, subject))


@pytest.fixture
def fake(tmp_path):
    """Start a fake server with settings of its own; ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(tmp_path, **settings))


@pytest.fixture
def harness(tmp_path):
    """Plain Locust, as in the README, with a scenario given as a document."""

    def run(address, scenario, *more, slo=SLO):
        folder = tmp_path / f"report-{time.monotonic_ns()}"
        (tmp_path / "slo.yaml").write_text(slo)
        if isinstance(scenario, dict):
            file = tmp_path / "tried.yaml"
            file.write_text(json.dumps({"proves": "It works.", "warm_up": 0} | scenario))
            scenario = str(file)
        command = [
            sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"),
            "--headless", "--only-summary", "--host", address, "--scenario", scenario,
            "--slo", str(tmp_path / "slo.yaml"), "--report", str(folder), *more,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        return Run(done.returncode, folder, done.stdout + done.stderr)

    return run
