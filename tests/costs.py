"""What each test costs, in CPU seconds of its process and of the children that ended, and the rule that a test of every commit
costs at most five.

A test pays for itself and its own fixtures; a fixture that tests share (of a module, a session) is counted by itself. The clock is
the process clock: what other programs do on the machine does not count, and where cores are slower the limit is higher."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from patience import slowness_of_cpu

LIMIT_S = 5.0
# A shared fixture may load an engine, which its tests would otherwise do one by one.
FIXTURE_LIMIT_S = 15.0

costs: dict[str, dict[str, float]] = {}
fixtures: dict[str, float] = {}
_shared_s = 0.0


def spent() -> float:
    """CPU seconds of this process and its ended children so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def is_of_every_commit(item: pytest.Item) -> bool:
    """No marker names a part of the release tier, or one that starts a cluster."""
    return not any(mark.name in item.config.stash[PARTS] for mark in item.iter_markers())


PARTS: pytest.StashKey[set[str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PARTS] = {line.partition(":")[0].strip() for line in config.getini("markers") if "part:" in line}


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Any:
    global _shared_s  # noqa: PLW0603: pytest has one such hook a process
    began, inner = spent(), _shared_s
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            own = spent() - began - (_shared_s - inner)
            _shared_s += own
            name = f"{fixturedef.baseid}::{fixturedef.argname}"
            fixtures[name] = round(max(own, fixtures.get(name, 0.0)), 2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: Any) -> Any:
    began, shared, wall = spent(), _shared_s, time.monotonic()
    try:
        return (yield)
    finally:
        own = spent() - began - (_shared_s - shared)
        costs[item.nodeid] = {"cpu_s": round(own, 2), "wall_s": round(time.monotonic() - wall, 2)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """The test itself fails that costs too much, so that it is seen where it is written."""
    report = yield
    if call.when == "call" and report.passed and is_of_every_commit(item):
        limit = LIMIT_S * slowness_of_cpu()
        own = call_cost(item)
        if own > limit:
            report.outcome = "failed"
            report.longrepr = (
                f"{item.nodeid} took {own:.1f} CPU seconds; a test of every commit may take {limit:.1f} on this machine. "
                "Make it cheaper, or mark it as a part of the release tier (CONTRIBUTING.md)."
            )
    return report


CALL: pytest.StashKey[float] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    began, shared = spent(), _shared_s
    try:
        return (yield)
    finally:
        item.stash[CALL] = spent() - began - (_shared_s - shared)


def call_cost(item: pytest.Item) -> float:
    return item.stash.get(CALL, 0.0)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where MEDLEY_TEST_COSTS names a folder, every process of this run leaves what it saw there."""
    if (folder := os.environ.get("MEDLEY_TEST_COSTS")) and costs:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = Path(folder) / f"{os.getpid()}.json"
        file.write_text(json.dumps({"tests": costs, "fixtures": fixtures, "slowness": slowness_of_cpu()}))
