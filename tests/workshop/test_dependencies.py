"""Answers of a reference are kept for as long as what they depend on is the same, and no longer."""

import shutil
from pathlib import Path

import pytest

from models.catalog import load_catalog
from models.specs import Artifact, ModelSpec
from workshop.evaluation import fidelity
from workshop.evaluation.dependencies import ROOT, digest_of, files_of
from workshop.evaluation.fidelity import kept_answers

TASKS = sorted({str(spec.task) for spec in load_catalog().values() if spec.fidelity})
EVALUATION = "workshop/evaluation"


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "workshop", folder / "workshop", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def whose_answers_change(root: Path, name: str) -> set[str]:
    """The tasks whose answers are asked for again when one more line is in a file, which may be new."""
    before = {task: digest_of(task, root) for task in TASKS}
    file = root / name
    was = file.read_text() if file.exists() else None
    file.write_text((was or "") + "\n# one more line\n")
    try:
        return {task for task in TASKS if digest_of(task, root) != before[task]}
    finally:
        file.unlink() if was is None else file.write_text(was)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        (f"{EVALUATION}/chat.py", {"chat"}),
        (f"{EVALUATION}/styles.py", {"styles"}),
        (f"{EVALUATION}/chat_vllm.py", {"chat"}),  # imported inside a function
        (f"{EVALUATION}/chat_texts.txt", {"chat"}),
        (f"{EVALUATION}/embeddings.txt", {"embeddings"}),
        (f"{EVALUATION}/pictures.py", {"images", "upscaling", "styles"}),
        (f"{EVALUATION}/evaluation.py", set(TASKS)),
        ("workshop/starter/doodle/drawings.py", {"images"}),
        (f"{EVALUATION}/a_task_of_tomorrow.py", set()),
        (f"{EVALUATION}/measuring.py", set()),
        ("workshop/variants/quantize_chat.py", set()),
    ],
)
def test_a_change_spoils_the_answers_of_the_tasks_that_use_it_and_no_others(copied, name, tasks):
    assert whose_answers_change(copied, name) == tasks


def test_all_data_of_evaluations_belongs_to_one():
    """Data that no module has the name of would be changed without a trace."""
    data = [file for file in (ROOT / EVALUATION).iterdir() if file.is_file() and file.suffix != ".py"]
    assert data
    assert set(data) <= {file for task in TASKS for file in files_of(task)}


SPEC = load_catalog()["all-minilm-l6-v2"]


def with_reference(**changes) -> ModelSpec:
    artifact = Artifact(name="form", maker="some.place:make", version=1)
    variant = SPEC.variant("onnx").model_copy(update={"artifact": artifact, **changes})
    return SPEC.model_copy(update={"variants": {**SPEC.variants, "onnx": variant}, "reference": "onnx"})


def of_artifact(**changes) -> ModelSpec:
    return with_reference(artifact=Artifact(**{"name": "form", "maker": "some.place:make", "version": 1, **changes}))


def more_limits(spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"limits": spec.limits.model_copy(update={"context_tokens": 7})})


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (of_artifact(maker="another.place:make"), True),
        (with_reference().model_copy(update={"title": "another", "fidelity": {}, "licence": "another"}), True),
        (of_artifact(version=2), False),
        (of_artifact(options={"bits": 4}), False),
        (with_reference(env={"A": "1"}), False),
        (with_reference(engine={"compile": True}), False),
        (more_limits(with_reference()), False),
    ],
    ids=["maker-moved", "words", "version", "options", "environment", "engine", "limits"],
)
def test_answers_are_kept_by_the_reference_and_the_models_settings(other, same):
    assert (kept_answers(other) == kept_answers(with_reference())) is same


def test_answers_are_kept_by_the_evaluation(monkeypatch):
    before = kept_answers(SPEC)
    monkeypatch.setattr(fidelity, "digest_of", lambda task: f"another of {task}")
    assert kept_answers(SPEC) != before
