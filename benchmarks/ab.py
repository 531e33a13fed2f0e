"""How often A/B mode is wrong: `python -m benchmarks.ab` (about a quarter of an hour).

Twenty runs compare two servers that both take 8 ms of CPU per request: no run may call one of them slower. Five runs
compare two of which one takes a fifth more: every run must find it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from benchmarks.autoscaling import free_port

ROOT = Path(__file__).parents[1]
WORK_MS, RATE, SECONDS = 8.0, 20, 30


@contextlib.contextmanager
def spinning(work_ms: float) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.spinning", str(port), str(work_ms)], cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{address}/v1/models", trust_env=False)
                break
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def compare(a: str, b: str, seed: int, folder: Path) -> dict[str, Any]:
    report = folder / f"run-{seed}"
    began = time.monotonic()
    words = ["ab", b, "--host", a, "--rate", str(RATE), "--seconds", str(SECONDS), "--seed", str(seed)]
    command = [sys.executable, "-m", "loadtest", *words, "--slo", str(folder / "slo.yaml"), "--report", str(report)]
    code = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode
    (found,) = json.loads((report / "report.json").read_text())["comparison"]
    taken = {key: found[key] for key in ("ratio", "low", "high", "b_is")}
    return {**taken, "exit": code, "seconds": time.monotonic() - began}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slo.yaml").write_text("profiles: {cpu: {tasks: {embeddings: {duration_s: 1, good: 0.95}}}}\n")
        with spinning(WORK_MS) as a, spinning(WORK_MS) as b:
            equal = [compare(a, b, seed, folder) for seed in range(1, 21)]
        with spinning(WORK_MS) as a, spinning(WORK_MS * 1.2) as b:
            slower = [compare(a, b, seed, folder) for seed in range(21, 26)]
    for one in (*equal, *slower):
        print(one)
    document = {"work_ms": WORK_MS, "rate": RATE, "seconds": SECONDS, "equal": equal, "a_fifth_slower": slower}
    file = ROOT / "benchmarks" / "results" / f"{date.today().isoformat()}-cpu{os.cpu_count()}-ab.json"
    file.write_text(json.dumps(document, indent=1) + "\n")
    print(f"flagged of equal ones: {sum(bool(one['b_is']) for one in equal)} of {len(equal)}")
    print(f"found of slower ones: {sum(one['b_is'] == 'slower' for one in slower)} of {len(slower)}")


if __name__ == "__main__":
    main()
