"""Parts that are found by their names."""

import sys

import pytest

from models.registry import backends_of, engine_class, part
from models.specs import Backend
from models.tasks import styles
from models.tasks.task import Settings, Task

UNKNOWN = Task("juggling", Settings, (), (), lambda settings: ())


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module without what is looked for."""
    (tmp_path / "a_part.py").write_text("Engnie = int\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_part"
    sys.modules.pop("a_part", None)


def test_a_part_that_there_is_not_is_none():
    assert part("models.engines.juggling_fake", "Engine") is None


def test_the_folder_that_a_deleted_package_leaves_is_no_part(tmp_path, monkeypatch):
    (tmp_path / "a_deleted_part" / "__pycache__").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert part("a_deleted_part", "Engine") is None


def test_a_part_whose_name_is_misspelt_is_not_taken_for_none(module):
    assert part(module, "Engnie") is int
    with pytest.raises(ImportError, match="a_part has no Engine, by which it is looked for"):
        part(module, "Engine")


def test_an_attribute_error_inside_a_module_is_not_taken_for_a_missing_name(tmp_path, monkeypatch):
    (tmp_path / "a_broken_part.py").write_text("import os\nos.of_a_newer_version()\nEngine = int\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="of_a_newer_version"):
        part("a_broken_part", "Engine")


def test_a_backend_is_offered_where_it_has_a_module():
    assert backends_of(styles.TASK) == [Backend.ONNX, Backend.FAKE]
    assert backends_of(UNKNOWN) == []


@pytest.mark.parametrize(
    ("task", "there"), [(styles.TASK, "styles has no engine for vllm; it has onnx, fake"), (UNKNOWN, "it has none")]
)
def test_an_engine_that_there_is_not_is_answered_with_those_there_are(task, there):
    with pytest.raises(KeyError, match=there):
        engine_class(task, Backend.VLLM)
