"""`medley variant build`: what is published, and what is refused."""

import json
from pathlib import Path

import pytest

from models import weights
from models.catalog import load_catalog
from models.evaluation.evaluation import EVALUATIONS, evaluation_of
from models.evaluation.fidelity import FidelityBelowFloor, below_floor, gpus
from models.evaluation.trial import Trial, TrialFailed
from models.specs import Artifact, ModelSpec, Task
from models.weights import artifact_folder, fetch

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def spec(monkeypatch) -> ModelSpec:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return load_catalog()[MODEL]


def made_by(spec: ModelSpec, maker: str, **options) -> ModelSpec:
    artifact = Artifact(name="spoiled", maker=f"spoiled_makers:{maker}", options=options)
    spoiled = spec.variant("onnx").model_copy(update={"artifact": artifact})
    return spec.model_copy(update={"variants": {**spec.variants, "spoiled": spoiled}})


def leftovers(spec: ModelSpec) -> list[Path]:
    folder = artifact_folder(spec, spec.variant("spoiled"))
    return [folder] if folder.exists() else [*folder.parent.glob(".unfinished-*")]


@pytest.mark.models
def test_perturbed_weights_are_refused_and_leave_nothing(spec):
    spoiled = made_by(spec, "perturbed", noise=1.0)
    steps = []
    with pytest.raises(FidelityBelowFloor, match="must be at least"):
        fetch(spoiled, spoiled.variant("spoiled"), steps.append)
    assert leftovers(spoiled) == []
    assert any("comparing" in step for step in steps)


@pytest.mark.models
def test_sound_weights_by_the_same_way_are_published_with_their_measures(spec):
    sound = made_by(spec, "perturbed", noise=0.0)
    folder = fetch(sound, sound.variant("spoiled"), lambda step: None)
    try:
        measures = weights.fidelity_of(folder)
        assert set(spec.fidelity) <= set(measures)
        assert below_floor(spec, measures) == ""
        assert weights.FIDELITY in weights.manifest_of(folder)
        steps = []
        assert fetch(sound, sound.variant("spoiled"), steps.append) == folder
        assert steps == []
    finally:
        weights.discard(sound, sound.variant("spoiled"))
    assert leftovers(sound) == []


@pytest.mark.models
def test_a_maker_that_fails_leaves_nothing(spec):
    spoiled = made_by(spec, "failing")
    with pytest.raises(OSError, match="the exporter gave up"):
        fetch(spoiled, spoiled.variant("spoiled"), lambda step: None)
    assert leftovers(spoiled) == []


@pytest.mark.models
def test_a_variant_that_cannot_be_loaded_says_why(spec, tmp_path):
    fetch(spec, spec.variant("onnx"), lambda step: None)
    with pytest.raises(TrialFailed, match=r"model\.onnx"):
        Trial(spec, spec.variant("onnx"), tmp_path)


def test_a_gpu_variant_is_not_judged_where_there_is_none(spec, monkeypatch, tmp_path):
    from models.evaluation import fidelity

    monkeypatch.setattr(fidelity, "gpus", list)
    steps = []
    gpu_variant = spec.variant("torch-gpu")
    assert fidelity.judge(spec, gpu_variant, tmp_path, steps.append) == {}
    assert steps == ["not compared with the reference: that needs a GPU"]


def test_the_gpus_are_names(monkeypatch):
    assert all(isinstance(name, str) for name in gpus())


def test_every_task_says_how_variants_are_compared():
    assert set(EVALUATIONS) == set(Task)
    for task in Task:
        evaluation = evaluation_of(task)
        assert all(measure.title and measure.means.endswith(".") for measure in evaluation.measures.values())


def test_every_floor_is_of_a_measure_and_every_artifact_is_judged():
    for spec in load_catalog().values():
        assert set(spec.fidelity) <= set(evaluation_of(spec.task).measures), spec.id
        if len({json.dumps(one.model_dump(mode="json")["artifact"]) for one in spec.variants.values()}) > 2:
            assert spec.fidelity, f"{spec.id} has artifacts and no floor"


def test_an_artifact_is_found_under_all_that_it_was_made_of():
    spec = load_catalog()[MODEL]
    first = made_by(spec, "perturbed", noise=0.1)
    second = made_by(spec, "perturbed", noise=0.2)
    folders = {artifact_folder(one, one.variant("spoiled")) for one in (first, second)}
    assert len(folders) == 2
    onnx = spec.variant("onnx")
    assert onnx.artifact
    of = onnx.artifact.model_copy(update={"name": "int8", "of": "onnx"})
    chained = spec.model_copy(update={"variants": {**spec.variants, "int8": onnx.model_copy(update={"artifact": of})}})
    newer = onnx.model_copy(update={"artifact": onnx.artifact.model_copy(update={"version": 9})})
    remade = chained.model_copy(update={"variants": {**chained.variants, "onnx": newer}})
    folders = {artifact_folder(one, one.variant("int8")).name for one in (chained, remade)}
    assert len(folders) == 2
