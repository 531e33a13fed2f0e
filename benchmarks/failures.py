"""The fate of requests when nodes fail, leave and join: `python -m benchmarks.failures`, as root.

Runs the tests of `tests/nodes` and writes their findings. `tests/nodes/under_load.py` explains the columns.
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

ROOT = Path(__file__).parents[1]
COLUMNS = ("case", "requests", "failed", "refused", "why", "slowest answer", "recovered after", "processes", "more")


def run(words: list[str]) -> list[dict[str, Any]]:
    """Raises SystemExit: a test failed, or none ran."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        command = [sys.executable, "-m", "pytest", "-m", "nodes", "-s", "tests/nodes/test_failures.py", *words]
        environment = {**os.environ, "MEDLEY_FAILURES_TABLE": str(table)}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        rows = json.loads(table.read_text()) if table.exists() else []
    if code or not rows:
        raise SystemExit(f"nothing is written: pytest ended with {code}, and there are {len(rows)} rows")
    return rows


def as_markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in rows)])


def cells(row: dict[str, Any]) -> list[str]:
    recovered = "" if row["recovery_s"] is None else f"{row['recovery_s']:.0f} s"
    more = {**row["events"], **row["facts"]}
    return [
        row["case"],
        str(row["requests"]),
        str(row["failed"]),
        str(row["refused"]),
        counted(row["why"]),
        f"{row['slowest_s']:.1f} s",
        recovered,
        f"{processes(row['before'])} → {processes(row['after'])}",
        ", ".join(f"{name}: {short(value)}" for name, value in more.items()),
    ]


def counted(why: dict[str, int]) -> str:
    return ", ".join(f"{count} times {reason}" for reason, count in why.items())


def processes(replicas: list[Any]) -> str:
    """Process ids, prefixed with the last number of the node's address, because nodes may use the same ids."""
    return " ".join(f"{address.rpartition('.')[2]}:{pid}" for address, pid in replicas) or "none"


def short(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only the tests with this in their names; nothing is written then")
    given = parser.parse_args()
    rows = run(["-k", given.k] if given.k else [])
    print(as_markdown(rows))
    if given.k:
        return
    file = ROOT / "benchmarks" / "results" / f"{date.today().isoformat()}-cpu{os.cpu_count()}-failures.json"
    file.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
