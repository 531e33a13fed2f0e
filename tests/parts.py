"""Run the parts of the proof, each by its own make target, and write down what each took.

    python tests/parts.py run check test-fast     these parts, up to the first that fails
    python tests/parts.py resume                  all parts; those that have passed on the same files are left out
    python tests/parts.py page RECORDS            docs/testing.md and the minutes in CONTRIBUTING.md, from records

A record of each run lies in build/parts: what was run, on which files and machine, its minutes, and the dearest
tests."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "build" / "parts"
PAGE = ROOT / "docs" / "testing.md"
RULES = ROOT / "CONTRIBUTING.md"

# In the order in which they run: what is cheap and often wrong first, what takes the machine for itself last.
EVERY_COMMIT = {
    "check": "style, types, import contracts; the Kubernetes overlays, alerts and Dockerfile, without a cluster",
    "test-fast": "in process, in two processes: the router on fakes, the command line, load tests on a virtual clock, "
    "and a contract test of every engine",
    "test-cluster": "one real cluster with the starter models: the main job, a deploy, a death, a scale to zero, "
    "the smoke load test",
}
RELEASE = {
    "test-matrix": "cross products as a whole, of which every commit tries one rotating member",
    "test-models": "engines on real weights, in half precision and 8 bits, beside their references",
    "test-variants": "exports, quantizations and builds, and the floors they must keep",
    "test-loadtests": "Locust in real time against servers with known delays",
    "test-serve": "real clusters: upgrades under load, failures, images, monitoring, variants, promises",
    "test-adversary": "a real cluster beside hostile requests of all kinds, and under a fuzzer",
    "test-nodes": "several Ray nodes that are drained, killed and cut off (root)",
    "test-mutations": "planted faults, which the tests above must find",
}
PARTS = EVERY_COMMIT | RELEASE


@dataclass
class Record:
    """One run of one part."""

    part: str
    passed: bool
    seconds: float
    files: str
    commit: str
    date: str
    machine: str
    summary: str = ""
    cpu_s: float = 0.0
    tests: int = 0
    dearest: list[tuple[str, float]] = field(default_factory=list)
    has: str = ""

    @property
    def holds(self) -> bool:
        """Whether it passed, on these files, on a machine like this."""
        return self.passed and bool(self.files) and (self.files, self.has) == (files(), has())


def git(*arguments: str, **variables: str) -> str | None:
    """What git says; None where it cannot, as in an unpacked archive, whose records hold for no files."""
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, check=False, capture_output=True, text=True
    )
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
        return None
    return done.stdout.strip()


def files() -> str:
    """A name for the working tree as it is: git's, of everything that it does not ignore; or nothing."""
    objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects")
    if objects is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:  # so that git writes nothing into the repository
        apart = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        if git("add", "--all", **apart) is None:
            return ""
        return git("write-tree", **apart) or ""


def commit() -> str:
    return git("describe", "--always", "--dirty") or ""


def has() -> str:
    """What this machine has that some tests are skipped without."""
    programs = [name for name in ("promtool", "redis-server", "buildah") if shutil.which(name)]
    data = [name for name in ("KUBERAY_CRDS", "MEDLEY_OPENAI_API") if name in os.environ]
    return ", ".join([*(["root"] if os.geteuid() == 0 else []), *programs, *data])


def machine() -> str:
    """The kind of CPU, how many, and whether it has AVX-512, which decides how fast engines are."""
    facts = Path("/proc/cpuinfo").read_text()
    name = next((line.partition(":")[2].strip() for line in facts.splitlines() if line.startswith("model name")), "?")
    memory = psutil.virtual_memory().total / 2**30
    wide = "AVX-512" if "avx512f" in facts else "AVX2"
    return f"{len(os.sched_getaffinity(0))} x {name} ({wide}), {memory:.0f} GiB"


def run(part: str) -> Record:
    """Run a part in this terminal and write its record."""
    folder = RECORDS / f"{part}.costs"
    shutil.rmtree(folder, ignore_errors=True)
    (RECORDS / f"{part}.json").unlink(missing_ok=True)  # of a run that is broken off there is no record
    print(f"\n=== {part}: {PARTS[part]}", flush=True)
    tree, described, began = files(), commit(), time.monotonic()
    code, lines = run_make(part, {**os.environ, "MEDLEY_TEST_COSTS": str(folder)})
    seconds = time.monotonic() - began
    if files() != tree:
        print(f"Files have changed while {part} ran: it counts as not run on any.")
        tree = ""
    record = Record(
        part=part,
        passed=code == 0,
        seconds=round(seconds, 1),
        files=tree,
        commit=described,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine(),
        summary=last_summary(lines),
        has=has(),
        **costs(folder),
    )
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{part}.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    return record


def run_make(target: str, environment: dict[str, str]) -> tuple[int, list[str]]:
    """Its exit code and its lines.

    Whoever interrupts or ends this program interrupts all processes of the target, and this waits for them: a cluster
    takes seconds to close.
    """
    stopped: list[int] = []
    processes: list[subprocess.Popen[str]] = []

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for process in processes:
            os.killpg(process.pid, signal.SIGINT)

    # Before the target starts: a shell may have set this program to ignore Ctrl+C, and its processes would do so, too.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    lines = []
    with subprocess.Popen(
        ["make", "--no-print-directory", target],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",  # a program that a test starts may write any bytes
        process_group=0,
    ) as process:
        processes.append(process)
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    for number, handler in before.items():
        signal.signal(number, handler)
    if stopped:
        raise SystemExit(128 + stopped[0])
    return process.returncode, lines


def last_summary(lines: list[str]) -> str:
    """What the part says of itself at its end: pytest's counts, or the last line."""
    counts = [line.strip(" =\n") for line in lines if re.search(r"\d (passed|failed).* in \d", line)]
    return (counts or [line.strip() for line in lines if line.strip()] or [""])[-1][:200]


def costs(folder: Path) -> dict[str, Any]:
    """CPU seconds of the tests of a part, and the dearest ten."""
    total: Counter[str] = Counter()
    for file in folder.glob("*.json"):
        seen = json.loads(file.read_text())
        for name, cost in seen["tests"].items():
            total[name] += cost["cpu_s"]
        for name, cpu_s in seen["fixtures"].items():
            total[f"fixture {name}"] += cpu_s
    return {
        "cpu_s": round(sum(total.values()), 1),
        "tests": sum(not name.startswith("fixture ") for name in total),
        "dearest": [(name, round(cpu_s, 1)) for name, cpu_s in total.most_common(10)],
    }


def read(folder: Path) -> dict[str, Record]:
    found = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return {record["part"]: Record(**record) for record in found}


def show(records: dict[str, Record]) -> None:
    print("\n=== summary")
    for part in PARTS:
        if record := records.get(part):
            verdict = "passed" if record.passed else "FAILED"
            print(f"{part:16} {verdict}  {minutes(record.seconds):>6}  {record.commit:14} {record.summary}")


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def run_parts(names: list[str]) -> int:
    """These parts, up to the first that fails."""
    done: dict[str, Record] = {}
    for part in names:
        done[part] = run(part)
        if not done[part].passed:
            break
    show(done)
    if failed := [part for part, record in done.items() if not record.passed]:
        print(f"{failed[0]} failed. `make {failed[0]}` runs it alone.")
    return int(bool(failed))


def resume() -> int:
    """All parts that have not passed on the files as they are; a failed part does not keep the others from running."""
    records = read(RECORDS)
    for part in PARTS:
        if part in records and records[part].holds:
            print(f"{part} has passed on these files already: {records[part].summary}")
        else:
            records[part] = run(part)
    show(records)
    failed = [part for part in PARTS if not records[part].passed]
    if failed:
        print(f"Failed: {', '.join(failed)}. `make test-all` runs what has not passed.")
    return int(bool(failed))


def page(folder: Path) -> None:
    """Write docs/testing.md, and the minutes of each part into the table of CONTRIBUTING.md."""
    records = read(folder)
    if failed := [part for part, record in records.items() if not record.passed]:
        raise SystemExit(f"{', '.join(failed)} did not pass.")
    if len(machines := {record.machine for record in records.values()}) != 1:
        raise SystemExit(f"The records in {folder} are not of one machine: {', '.join(machines)}")
    lines = [
        "# What each part of the proof takes",
        "",
        f"Written by `python tests/parts.py page {folder.relative_to(ROOT)}` from the records of runs; do not edit. "
        "What goes into which part stands in [CONTRIBUTING.md](../CONTRIBUTING.md).",
        "",
        f"Machine: {machines.pop()}.",
        "",
        "| part | proves | tests | minutes | CPU seconds of tests | run on | commit |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for part, proves in PARTS.items():
        if record := records.get(part):
            lines.append(
                f"| `make {part}` | {proves} | {record.tests or ''} | {minutes(record.seconds)} | "
                f"{record.cpu_s or ''} | {record.date} | {record.commit} |"
            )
    lines += ["", "## The dearest tests", "", "| part | test | CPU seconds |", "|---|---|---:|"]
    for part in PARTS:
        if record := records.get(part):
            lines += [f"| {part} | `{name}` | {cpu_s} |" for name, cpu_s in record.dearest[:5]]
    PAGE.write_text("\n".join(lines) + "\n")
    rules = RULES.read_text()
    for part, record in records.items():
        rules, rows = re.subn(
            rf"^(\| `make {part}` \|)[^|]*\|", rf"\1 {minutes(record.seconds)} |", rules, flags=re.MULTILINE
        )
        if rows != 1:
            raise SystemExit(f"CONTRIBUTING.md has {rows} rows for `make {part}`, not one.")
    RULES.write_text(rules)
    print(f"wrote {PAGE.relative_to(ROOT)} and the minutes in {RULES.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("parts", nargs="+", choices=PARTS)
    commands.add_parser("resume")
    commands.add_parser("page").add_argument("folder", type=lambda name: Path(name).resolve())
    chosen = parser.parse_args()
    if chosen.command == "run":
        return run_parts(chosen.parts)
    if chosen.command == "resume":
        return resume()
    page(chosen.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
