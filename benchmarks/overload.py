"""How many requests stay good under twice the load, with and without admission: `python -m benchmarks.overload`.

On the starter cluster, it searches the highest rate of chats at which the promise holds. Then it sends twice that rate,
in turns with admission off and on, and compares the number of good answers with that at the highest rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from benchmarks.starter import ROOT, starter
from loadtest import records

BIN = Path(sys.executable).parent
ADDRESS = "http://127.0.0.1:8000"
CHAT = {"task": "chat", "options": {"max_prompt_tokens": 96, "max_tokens": 16}, "good": 0.9}
MODEL = "smollm2-135m-instruct"


def config(folder: Path, promises: str | None) -> Path:
    """Only the chat model and the router, because other models would take CPU from both sides."""
    file = folder / f"{promises or 'without'}.yaml"
    file.write_text(yaml.safe_dump(starter(MODEL, promises=promises), sort_keys=False))
    return file


def medley(*words: str) -> None:
    subprocess.run([str(BIN / "medley"), *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def capacity(folder: Path) -> float:
    """The highest rate that is proven to hold."""
    scenario = write(folder, "saturate", {"stages": [{"rate": 1, "seconds": 15}], "parts": [CHAT], "drain_s": 30})
    words = ["search", str(scenario), "--host", ADDRESS, "--low", "4", "--report", str(folder / "search")]
    subprocess.run([sys.executable, "-m", "loadtest", *words], cwd=ROOT, check=True)
    return json.loads((folder / "search" / "search.json").read_text())["low"]


def write(folder: Path, name: str, scenario: dict[str, Any]) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"proves": name, **scenario}))
    return file


def at(folder: Path, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Send chats at this rate. Returns the outcomes per second."""
    scenario = {
        "stages": [{"rate": rate, "seconds": seconds}],
        "parts": [{**CHAT, "good": 0.5}],
        "refusals_count": False,
        "drain_s": 120,
    }
    report = folder / f"at-{rate:.2f}-{seed}"
    words = [
        "run",
        str(write(folder, "overload", scenario)),
        "--host",
        ADDRESS,
        "--seed",
        str(seed),
        "--report",
        str(report),
    ]
    subprocess.run([sys.executable, "-m", "loadtest", *words], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    document = json.loads((report / "report.json").read_text())
    attempts = list(records.read(report / "records.jsonl"))
    (model,) = document["models"]
    good = [record for record in attempts if record.answered and within(record, model["limits"])]
    refused = [record for record in attempts if record.refused]
    return {
        "rate": rate,
        "attempts": len(attempts),
        "good_per_s": len(good) / seconds,
        "answered_per_s": sum(record.answered for record in attempts) / seconds,
        "refused": len(refused),
        "refused_without_retry_after": sum(record.retry_after is None for record in refused),
        "given_up": sum(record.given_up for record in attempts),
        "lost": sum(not record.refused and not record.answered and not record.given_up for record in attempts),
        "first_token_p50_s": model["figures"]["time_to_first_token_s"]["p50"],
        "first_token_p99_s": model["figures"]["time_to_first_token_s"]["p99"],
        "generator": document["health"],
    }


def within(record: records.Record, limits: dict[str, float]) -> bool:
    return all(record.figures().get(name, 0.0) <= limit for name, limit in limits.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, help="instead of a search: the highest rate that holds")
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        medley("up", str(config(folder, None)))
        try:
            rate = given.rate or capacity(folder)
            runs: dict[str, list[dict[str, Any]]] = {"at_capacity": [], "without": [], "with": []}
            for turn in range(given.turns):
                if turn:
                    medley("deploy", "--yes", str(config(folder, None)))
                runs["at_capacity"].append(at(folder, rate, given.seconds, 10 + turn))
                runs["without"].append(at(folder, 2 * rate, given.seconds, 20 + turn))
                medley("deploy", "--yes", str(config(folder, "cpu")))
                at(folder, 0.8 * rate, 20, 30 + turn)  # for admission to learn from
                runs["with"].append(at(folder, 2 * rate, given.seconds, 20 + turn))
                print(json.dumps({key: value[-1] for key, value in runs.items()}, indent=1), flush=True)
        finally:
            medley("down")
    file = ROOT / "benchmarks" / "results" / f"{date.today().isoformat()}-cpu{os.cpu_count()}-overload.json"
    file.write_text(json.dumps({"capacity": rate, "seconds": given.seconds, **runs}, indent=1) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
