"""Runs of the harness: what it is given and what it leaves."""

import itertools
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import loadtest.tasks

SLO = """
profiles:
  cpu:
    default: {duration_s: 1, good: 0.95}
    tasks:
      chat: {time_to_first_token_s: 0.5, time_per_output_token_s: 0.1, duration_s: 20, good: 0.95}
      speech: {time_to_first_audio_s: 0.5, real_time_factor: 0.4, good: 0.95}
"""
# That have requests of their own; all others are asked for their model's example.
TASKS = sorted(module.name for module in pkgutil.iter_modules(loadtest.tasks.__path__))
CHAT = {"parts": [{"task": "chat", "options": {"max_prompt_tokens": 40, "max_tokens": 16}}]}
EMBEDDINGS = {"parts": [{"task": "embeddings"}]}
numbers = itertools.count(1)


def at(rate, seconds, **changes):
    return {"stages": [{"rate": rate, "seconds": seconds}], "drain_s": 10, **changes}


def written(folder, address, scenario, slo=None):
    """Files of promises and of a scenario given as a document. The folder of the report, and Locust's words."""
    report = folder / f"report-{next(numbers)}"
    if slo is None:
        slo = folder / "slo.yaml"
        slo.write_text(SLO)
    if isinstance(scenario, dict):
        file = folder / "tried.yaml"
        file.write_text(json.dumps({"proves": "It works.", "warm_up": 0} | scenario))
        scenario = str(file)
    words = ["--headless", "--only-summary", "--host", address, "--scenario", scenario, "--slo", str(slo)]
    return report, [*words, "--report", str(report)]


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
