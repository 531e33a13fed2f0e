"""Shared by the tests of engines."""

import os

import pytest
from artifacts import Artifacts


@pytest.fixture(scope="session")
def artifacts(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """What makers made, kept in pytest's cache; where there is none, in a folder of all processes of this run."""
    if cache := getattr(pytestconfig, "cache", None):
        return Artifacts(cache.mkdir("medley-artifacts"))
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "medley-artifacts"
    folder.mkdir(exist_ok=True)
    return Artifacts(folder)
