"""Plants faults, one at a time, and looks whether the tests of every commit find them.

    python tests/mutations/run.py                  all but those that only a cluster shows
    python tests/mutations/run.py --cluster        those too, one after the other
    python tests/mutations/run.py ID...            these, whatever they need

A fault is a line of the product that is changed in a copy of the tree; see faults.yaml. It is caught when one of the
tests that it names fails there. A test that fails without any fault finds nothing: it is left out, and the run fails.

Exit code 0: every fault is caught, and nine in ten of them by tests of every commit; 1: not so, or a test is red.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_name("faults.yaml")
# Of a fault that a test without a marker finds. Other parts are named by their markers.
UNMARKED, CLUSTER = "unmarked", "cluster"
EVERY_COMMIT = (UNMARKED, CLUSTER)
WITH_CLUSTER = (CLUSTER, "serve", "nodes")
SHARE = 0.9
PROCESSES = 2
# A run that takes longer hangs, which nobody would overlook in a run of the whole suite.
LONGEST_S, LONGEST_WITH_CLUSTER_S = 900.0, 2400.0
PACKAGES = ("models", "workshop", "deployments", "medley", "loadtest")
# Imported once, and there in each process that runs tests: importing them takes longer than most tests.
PRELOADED = ("pytest", "hypothesis", "schemathesis", "jsonschema", "ray.serve.schema", "fastapi", "httpx", "openai")
PRELOADED_FOR_ENGINES = ("torch", "transformers", "diffusers", "onnx", "onnxruntime")
# In the order of the files, and with the same drawn examples for every fault.
OPTIONS = ("-q", "--tb=line", "-p", "no:cacheprovider", "--randomly-seed=1", "--randomly-dont-reorganize")
FAILURE = re.compile(r"^(?:FAILED|ERROR) (tests/\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Attributes:
        file, old, new: the text that is changed; it is in the file once.
        means: what goes wrong, for whom.
        tests: those that should find it, as patterns of paths.
        caught_by: "unmarked", or the marker of the part whose tests find it.
        after: commands of Medley that write files from what was changed, as whoever changes it runs them.
        before: what the suite of November 2026 said of it.
    """

    id: str
    file: str
    old: str
    new: str
    means: str
    tests: tuple[str, ...]
    caught_by: str = UNMARKED
    after: tuple[str, ...] = ()
    before: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a fault.

    Attributes:
        word: "caught", "hangs", "missed", "stale" (its text is not in the file once), "unread" (a file of tests could
            not be imported), or how else the tests ended.
        by: the test that found it, or the end of what was written.
    """

    fault: Fault
    word: str
    by: str = ""
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        return self.word in ("caught", "hangs")

    @property
    def early(self) -> bool:
        """By tests of every commit."""
        return self.caught and self.fault.caught_by in EVERY_COMMIT


def read_faults(file: Path = FAULTS) -> list[Fault]:
    rows = yaml.safe_load(file.read_text())["faults"]
    faults = [Fault(**{**row, "tests": tuple(row["tests"]), "after": tuple(row.get("after", ()))}) for row in rows]
    if twice := [name for name, times in Counter(fault.id for fault in faults).items() if times > 1]:
        raise SystemExit(f"{file.name} has two faults named {', '.join(twice)}.")
    return faults


class Trees:
    """Copies of a checkout, below a folder. The first is made at once, so that whoever works in the checkout meanwhile
    does not disturb; the others are copies of that."""

    def __init__(self, root: Path, folder: Path):
        self.folder, self.first = folder, folder / "first"
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        self.files: list[str] = []
        for name in filter(None, sorted(listed)):
            place = self.first / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # it is removed and not committed yet
                shutil.copy2(root / name, place)
                self.files.append(name)

    def copy(self, name: str) -> Path:
        """With files of its own: a test may write to them. What is compiled already is compiled there too."""
        return Path(shutil.copytree(self.first, self.folder / name))

    def tests(self, patterns: Iterable[str]) -> list[str]:
        """Files of tests by patterns of paths."""
        files = [file for file in self.files if Path(file).name.startswith("test_") and file.endswith(".py")]
        return sorted({file for pattern in patterns for file in fnmatch.filter(files, pattern)})


def plant(fault: Fault, tree: Path) -> bool:
    """Change the text. False: it is not there, or more than once."""
    file = tree / fault.file
    text = file.read_text() if file.exists() else ""
    if text.count(fault.old) != 1:
        return False
    file.write_text(text.replace(fault.old, fault.new))
    for command in fault.after:
        run = [sys.executable, "-m", "medley.main", *command.split()[1:]]
        subprocess.run(run, cwd=tree, env={**os.environ, **variables(tree, tree)}, capture_output=True, check=True)
    return True


def variables(tree: Path, home: Path) -> dict[str, str]:
    """By which the packages are those of the copy, also in processes that tests start."""
    openai_api = ROOT.parent / "shared" / "openai-api" / "openapi-subset.json"
    return {
        "PYTHONPATH": str(tree),
        "MEDLEY_HOME": str(home),
        "MEDLEY_OPENAI_API": os.environ.get("MEDLEY_OPENAI_API", str(openai_api)),
        "OMP_NUM_THREADS": "1",
    }


def home_with_weights(place: Path) -> Path:
    """The weights of this machine by links, so that a fault removes or replaces nothing but links."""
    place.mkdir()
    real = Path(os.environ.get("MEDLEY_HOME") or Path.home() / ".cache" / "medley") / "models"
    with contextlib.suppress(OSError):  # on another disk there are no links; tests that need weights are skipped then
        shutil.copytree(real.resolve(), place / "models", copy_function=os.link)
    return place


def run_tests(tree: Path, home: Path, options: Sequence[str], log: Path) -> None:
    """In a process of its own, forked from one that has imported other people's packages and none of ours."""
    os.setsid()
    os.chdir(tree)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(variables(tree, home))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    here = str(Path(__file__).parent)
    sys.path[:] = [str(tree), *(path for path in sys.path if path != here)]
    for name in PACKAGES:
        if name in sys.modules or not str(importlib.import_module(name).__file__).startswith(f"{tree}/"):
            raise SystemExit(f"{name} is not imported from the copy")
    import pytest

    code = int(pytest.main(list(options)))
    sys.stdout.flush()
    os._exit(code)  # whatever threads a fault has left behind


class Runner:
    """
    Attributes:
        red: tests that failed without any fault.
    """

    def __init__(self, trees: Trees, engines: bool):
        """
        Args:
            engines: preload the libraries of engines too.
        """
        self.trees = trees
        self.red: list[str] = []
        self.running: set[int] = set()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([*PRELOADED, *(PRELOADED_FOR_ENGINES if engines else ())])
        self._numbers = count()

    def end(self, pool: ThreadPoolExecutor) -> None:
        """Tests are in sessions of their own, which no Ctrl+C reaches."""
        pool.shutdown(wait=False, cancel_futures=True)
        for pid in self.running.copy():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def of_part(self, part: str) -> list[str]:
        """The options that choose its tests. Without any, tests/tiers.py chooses those of every commit."""
        return [] if part == UNMARKED else ["-m", part]

    def pytest(self, tree: Path, tests: Sequence[str], part: str, *, whole: bool = False) -> tuple[str, list[str], str]:
        """Run the tests of a part in a tree.

        Args:
            whole: go on after a failure.

        Returns:
            "green", "red", "hangs" or how else it ended; the tests that failed; the end of what was written.
        """
        number = next(self._numbers)
        log = self.trees.folder / f"{number}.log"
        options = [*OPTIONS, *self.of_part(part)]
        options += [f"--deselect={test}" for test in self.red] + ([] if whole else ["-x"])
        home = home_with_weights(self.trees.folder / f"home-{number}")
        process = self.context.Process(target=run_tests, args=(tree, home, [*options, *tests], log))
        process.start()
        self.running.add(process.pid or 0)
        process.join(LONGEST_WITH_CLUSTER_S if part in WITH_CLUSTER else LONGEST_S)
        hangs = process.is_alive()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        self.running.discard(process.pid or 0)
        shutil.rmtree(home, ignore_errors=True)
        text = log.read_text(errors="replace") if log.exists() else ""
        words = {0: "green", 1: "red", 5: "no tests"}
        word = "hangs" if hangs else words.get(process.exitcode or 0, f"exit code {process.exitcode}")
        return word, FAILURE.findall(text), text[-2000:]

    def without_fault(self, tests: Sequence[str], part: str) -> None:
        """Tests that fail without any fault find nothing. What they import is compiled from then on."""
        word, failed, text = self.pytest(self.trees.first, tests, part, whole=True)
        if word not in ("green", "red", "no tests"):
            raise SystemExit(f"Without any fault the tests end with {word}:\n{text}")
        self.red += failed

    def with_fault(self, fault: Fault) -> Found:
        began = time.monotonic()
        tree = self.trees.copy(f"{fault.id}-{next(self._numbers)}")
        try:
            if not plant(fault, tree):
                return Found(fault, "stale", f"{fault.file} has not its text once")
            word, failed, text = self.pytest(tree, self.trees.tests(fault.tests), fault.caught_by)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        seconds = time.monotonic() - began
        if word == "red" and any("::" in test for test in failed):
            return Found(fault, "caught", failed[0], seconds)
        if word == "red":
            word = "unread"  # a file of tests could not be imported, which finds nothing
        return Found(fault, "missed" if word == "green" else word, "" if word == "green" else text[-600:], seconds)


def try_all(faults: Sequence[Fault], trees: Trees, tell: Callable[[Found], None]) -> tuple[list[Found], list[str]]:
    """What became of each, and the tests that are red without any."""
    named = {fault.id: trees.tests(fault.tests) for fault in faults}
    if nothing := [name for name, tests in named.items() if not tests]:
        raise SystemExit(f"No test fits the patterns of {', '.join(nothing)}.")
    runner = Runner(trees, any("/engines/" in test for tests in named.values() for test in tests))
    found: dict[str, Found] = {}

    def one(fault: Fault) -> None:
        found[fault.id] = runner.with_fault(fault)
        tell(found[fault.id])

    for part in sorted({fault.caught_by for fault in faults}, key=lambda part: part != UNMARKED):
        of_part = [fault for fault in faults if fault.caught_by == part]
        processes = 1 if part in WITH_CLUSTER else PROCESSES
        tests = sorted({test for fault in of_part for test in named[fault.id]})
        with ThreadPoolExecutor(processes) as pool:
            shares = [tests[start::processes] for start in range(processes)]
            try:
                list(pool.map(lambda share, part=part: share and runner.without_fault(share, part), shares))
                list(pool.map(one, of_part))
            except BaseException:
                runner.end(pool)
                raise
    return [found[fault.id] for fault in faults], runner.red


def summary(found: Sequence[Found]) -> str:
    by_part = Counter(one.fault.caught_by for one in found if one.caught).most_common()
    early, caught = sum(one.early for one in found), sum(one.caught for one in found)
    return "\n".join(
        [
            *(f"{one.word:<8} {one.fault.caught_by:<10} {one.fault.id:<36} {one.by[-160:]}" for one in found),
            f"{caught} of {len(found)} faults are caught, {early} of them by tests of every commit "
            f"({early / max(1, len(found)):.1%}): {', '.join(f'{part} {number}' for part, number in by_part)}.",
            *(f"{one.word}: {one.fault.id}. {one.fault.means}" for one in found if not one.caught),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutations/run.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ids", nargs="*", help="faults; all that need no cluster when none is named")
    parser.add_argument("--cluster", action="store_true", help="also those that only a cluster shows")
    parser.add_argument("--report", type=Path, help="write what was found to this file, as JSON")
    given = parser.parse_args(arguments)
    os.environ.pop("MEDLEY_TEST_COSTS", None)  # tests that run again for each fault are on no bill
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended as by Ctrl+C: nothing is left behind
    faults = read_faults()
    if unknown := set(given.ids) - {fault.id for fault in faults}:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    if given.ids:
        faults = [fault for fault in faults if fault.id in given.ids]
    elif not given.cluster:
        faults = [fault for fault in faults if fault.caught_by not in WITH_CLUSTER]
    with tempfile.TemporaryDirectory(prefix="medley-mutations-", ignore_cleanup_errors=True) as folder:
        found, red = try_all(faults, Trees(ROOT, Path(folder)), tell_of)
    print(f"\n{summary(found)}")
    if red:
        print("Red without any fault, so left out:\n  " + "\n  ".join(red))
    if given.report:
        rows: list[Any] = [{"id": one.fault.id, "word": one.word, "by": one.by, "s": one.seconds} for one in found]
        given.report.write_text(json.dumps({"found": rows, "red": red}, indent=1) + "\n")
    enough = sum(one.early for one in found) >= SHARE * len(found)
    return 0 if enough and not red and all(one.caught for one in found) else 1


def tell_of(one: Found) -> None:
    print(f"{one.word:<8} {one.seconds:5.1f} s  {one.fault.id}  {one.by.strip().splitlines()[-1:]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
