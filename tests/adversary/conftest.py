"""The starter cluster, as it is shipped, with its own admission: one for all tests here."""

import os
import secrets
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cluster"))  # what starts a cluster
sys.path.append(str(Path(__file__).parents[1] / "tasks"))  # endpoints with their examples

from local_cluster import running, starter


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("adversary"):
            item.add_marker(pytest.mark.timeout(3600))  # each wait has its own patience


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    with running(starter("cpu"), tmp_path_factory.mktemp("adversary")) as one:
        yield one


@pytest.fixture(scope="session")
def seed() -> int:
    """Of what is drawn. `make test-adversary SEED=7` repeats it."""
    given = os.environ.get("PYTHONHASHSEED", "")
    number = int(given) if given.isdigit() else secrets.randbits(32)
    print(f"\nseed {number}")
    return number
