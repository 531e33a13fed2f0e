"""The harness in virtual time (`world`), and as a user runs it (`fake`, `harness`)."""

import contextlib
import subprocess
import sys

import pytest
from known_delays import ROOT, serving
from runs import Run, written


@pytest.fixture
def world(tmp_path):
    from virtual_locust import world_of  # here, so that other tests need no Locust

    with world_of(tmp_path) as world:
        yield world


@pytest.fixture
def fake(tmp_path):
    """Start a fake server with settings of its own; ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(tmp_path, **settings))


@pytest.fixture
def harness(tmp_path):
    """Plain Locust, as in the README, with a scenario given as a document."""

    def run(address, scenario, *more):
        folder, words = written(tmp_path, address, scenario)
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *words, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        return Run(done.returncode, folder, done.stdout + done.stderr)

    return run
