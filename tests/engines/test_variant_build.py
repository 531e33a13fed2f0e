"""`medley variant build`: what is published, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from artifacts import home_is, link

from models import weights
from models.catalog import load_catalog
from models.hardware import gpus
from models.specs import Artifact, ModelSpec
from models.weights import artifact_folder, fetch, locate
from workshop.evaluation import fidelity
from workshop.evaluation.fidelity import FidelityBelowFloor, below_floor
from workshop.evaluation.trial import Trial, TrialFailed

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def spec(monkeypatch) -> ModelSpec:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return load_catalog()[MODEL]


def made_by(spec: ModelSpec, maker: str, **options) -> ModelSpec:
    artifact = Artifact(name="spoiled", maker=f"spoiled_makers:{maker}", options=options, of="onnx")
    spoiled = spec.variant("onnx").model_copy(update={"artifact": artifact})
    return spec.model_copy(update={"variants": {**spec.variants, "spoiled": spoiled}})


def leftovers(spec: ModelSpec) -> list[Path]:
    folder = artifact_folder(spec, spec.variant("spoiled"))
    return [folder] if folder.exists() else [*folder.parent.glob(".unfinished-*")]


class Judged:
    """Stands in for a variant in a process of its own: it answers with the reference's vectors and some noise.

    Attributes:
        asked: how many were.
    """

    noise = 0.0
    asked = 0

    def __init__(self, spec, variant, folder):
        self.is_reference = variant == spec.variant(spec.reference_variant)
        assert self.is_reference or (folder / "made.bin").read_bytes() == b"made"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def answers(self, fraction=lambda done: None):
        Judged.asked += 1
        drawn = np.random.default_rng(1)
        vectors = {name: drawn.standard_normal((size, 16)) for name, size in (("questions", 60), ("documents", 136))}
        noise = 0 if self.is_reference else Judged.noise
        vectors = {name: value + noise * drawn.standard_normal(value.shape) for name, value in vectors.items()}
        return vectors | {"alone": vectors["documents"][::8]}


@pytest.fixture
def judged(spec, monkeypatch, tmp_path) -> ModelSpec:
    """A spec whose variant `spoiled` is made in no time and judged by what `Judged` says; in a home of its own."""

    def make(artifact, source, target, report) -> None:
        assert (source / "model.onnx").exists()
        report(f"making {artifact.name}, once")
        (target / "made.bin").write_bytes(b"made")

    source = locate(spec, spec.variant("torch")), locate(spec, spec.variant("onnx"))
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    link(source[0], locate_in_home(spec, "torch"))
    link(source[1], locate_in_home(spec, "onnx"))
    monkeypatch.setattr(weights, "_make", make)
    monkeypatch.setattr(fidelity, "Trial", Judged)
    monkeypatch.setattr(Judged, "asked", 0)
    monkeypatch.setattr(Judged, "noise", 0.0)
    return made_by(spec, "nobody")


def locate_in_home(spec: ModelSpec, name: str) -> Path:
    variant = spec.variant(name)
    return (
        artifact_folder(spec, variant) if variant.artifact else weights.model_folder(spec.row, spec.source) / "source"
    )


def test_what_keeps_the_floor_is_published_with_its_measures_and_judged_once(judged):
    Judged.noise, steps = 0.01, []
    folder = fetch(judged, judged.variant("spoiled"), steps.append)
    measures = weights.fidelity_of(folder)
    assert set(judged.fidelity) <= set(measures)
    assert below_floor(judged, measures) == ""
    assert 0.99 < measures["cosine"] < 1
    assert set(weights.manifest_of(folder)) == {"made.bin", weights.FIDELITY}
    assert "comparing its answers with the reference's" in steps
    again = []
    assert fetch(judged, judged.variant("spoiled"), again.append) == folder
    assert (again, Judged.asked) == ([], 2)


def test_what_is_below_the_floor_is_refused_and_leaves_nothing(judged):
    Judged.noise = 1.0
    for asked in (2, 3):  # the reference's answers are kept
        with pytest.raises(FidelityBelowFloor, match=r"Cosine .* and must be at least 0.99"):
            fetch(judged, judged.variant("spoiled"), lambda step: None)
        assert leftovers(judged) == []
        assert Judged.asked == asked
    with pytest.raises(weights.WeightsMissing):
        locate(judged, judged.variant("spoiled"))


def test_a_reference_is_not_judged_by_itself(judged):
    assert not weights.needs_judging(judged, judged.variant(judged.reference_variant))
    assert weights.needs_judging(judged, judged.variant("spoiled"))
    without_floor = judged.model_copy(update={"fidelity": {}})
    assert not weights.needs_judging(without_floor, judged.variant("spoiled"))


@pytest.fixture
def in_own_home(spec, artifacts):
    """Where source and reference are, and what else is fetched is made and judged as users do it."""
    artifacts.published(spec)
    exported = artifacts.of(spec, "onnx")
    with home_is(artifacts.home):
        link(exported, artifact_folder(spec, spec.variant("onnx")))
        yield spec


@pytest.mark.variants
def test_perturbed_weights_are_refused_and_leave_nothing(in_own_home):
    spoiled = made_by(in_own_home, "perturbed", noise=1.0)
    steps = []
    with pytest.raises(FidelityBelowFloor, match="must be at least"):
        fetch(spoiled, spoiled.variant("spoiled"), steps.append)
    assert leftovers(spoiled) == []
    assert any("comparing" in step for step in steps)


@pytest.mark.variants
def test_sound_weights_by_the_same_way_are_published_with_their_measures(in_own_home):
    spec = in_own_home
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


@pytest.mark.variants
def test_a_maker_that_fails_leaves_nothing(in_own_home):
    spoiled = made_by(in_own_home, "failing")
    with pytest.raises(OSError, match="the exporter gave up"):
        fetch(spoiled, spoiled.variant("spoiled"), lambda step: None)
    assert leftovers(spoiled) == []


def test_a_variant_that_cannot_be_loaded_says_why(spec, tmp_path):
    with pytest.raises(TrialFailed, match=r"model\.onnx"):
        Trial(spec, spec.variant("onnx"), tmp_path)


def test_a_gpu_variant_is_not_judged_where_there_is_none(spec, monkeypatch, tmp_path):
    monkeypatch.setattr(fidelity, "gpus", list)
    steps = []
    gpu_variant = spec.variant("torch-gpu")
    assert fidelity.judge(spec, gpu_variant, tmp_path, steps.append) == {}
    assert steps == ["not compared with the reference: that needs a GPU"]


@pytest.mark.parametrize(
    ("driver", "names"),
    [
        ("echo 'NVIDIA H100'; echo 'NVIDIA A10'", ["NVIDIA H100", "NVIDIA A10"]),
        ("echo 'NVIDIA-SMI has failed'; exit 9", []),
        (None, []),
    ],
)
def test_the_gpus_are_those_of_the_driver(monkeypatch, tmp_path, driver, names):
    if driver:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{driver}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
    assert gpus() == names


def test_every_artifact_is_judged():
    for spec in load_catalog().values():
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
