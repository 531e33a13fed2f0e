"""What each test costs in CPU seconds, and the rule that a test of every commit costs at most five.

The clock is the process clock, with that of children that ended: what other programs do on the machine does not count,
and where cores are slower the limit is higher. A test pays for itself and for its own fixtures. A fixture that tests
share (of a module, of the session) is counted by itself."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from patience import slowness_of_cpu
from tiers import is_of_every_commit

LIMIT_S = 5.0

OWN: pytest.StashKey[float] = pytest.StashKey()
RAN: pytest.StashKey[bool] = pytest.StashKey()
TOLD: pytest.StashKey[bool] = pytest.StashKey()


class Ledger:
    """What this process has seen. One a process, because pytest's hooks are functions of a module."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self.fixtures: dict[str, float] = {}
        self.shared_s = 0.0

    def clock(self) -> float:
        """CPU seconds of this process and its ended children, without what shared fixtures took."""
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system - self.shared_s

    def share(self, seconds: float) -> None:
        self.shared_s += seconds


ledger = Ledger()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Any:
    """What tests share is on the bill of none: not its making, nor its end, which may come in the midst of another."""
    if fixturedef.scope == "function":
        return (yield)
    began, ends = ledger.clock(), []
    # Finalizers run from the last to the first: these two enclose the fixture's own.
    fixturedef.addfinalizer(lambda: ledger.share(ledger.clock() - ends.pop()))
    try:
        return (yield)
    finally:
        fixturedef.addfinalizer(lambda: ends.append(ledger.clock()))
        took = ledger.clock() - began
        ledger.share(took)
        name = f"{fixturedef.baseid}::{fixturedef.argname}"
        ledger.fixtures[name] = round(max(took, ledger.fixtures.get(name, 0.0)), 2)


@contextmanager
def billed(item: pytest.Item) -> Iterator[None]:
    """What happens inside is on this test's bill."""
    began = ledger.clock()
    try:
        yield
    finally:
        item.stash[OWN] = item.stash.get(OWN, 0.0) + ledger.clock() - began


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Any:
    with billed(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    item.stash[RAN] = True
    with billed(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Any:
    try:
        with billed(item):
            return (yield)
    finally:
        if RAN in item.stash:  # and was not skipped
            ledger.tests[item.nodeid] = {"cpu_s": round(item.stash[OWN], 2)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """A test that costs too much fails itself, so that it is seen where it is written."""
    report = yield
    if call.when != "setup" and report.passed and TOLD not in item.stash and is_of_every_commit(item):
        # Looked at often, because a core that is shared with other machines is slow at times.
        limit = LIMIT_S * (slowness_of_cpu() if item.stash[OWN] > LIMIT_S / 2 else 1.0)
        if item.stash[OWN] > limit:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {item.stash[OWN]:.1f} CPU seconds. A test of every commit may take {limit:.1f} on "
                "this machine: make it cheaper, or mark it as a part of the release tier (CONTRIBUTING.md). Processes "
                "and threads that an earlier test has left count here, too."
            )
            item.stash[TOLD] = True
    return report


def pytest_sessionfinish() -> None:
    """Where MEDLEY_TEST_COSTS names a folder, each process of a run leaves there what it saw."""
    if (folder := os.environ.get("MEDLEY_TEST_COSTS")) and ledger.tests:
        Path(folder).mkdir(parents=True, exist_ok=True)
        seen = {"tests": ledger.tests, "fixtures": ledger.fixtures, "slowness": round(slowness_of_cpu(), 2)}
        (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(seen))
