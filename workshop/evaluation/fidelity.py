"""Tests whether a variant answers like its model's reference. An artifact below the floor is discarded."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models import weights
from models.choice import made_as
from models.hardware import gpus
from models.specs import ModelSpec, VariantSpec
from workshop.evaluation.dependencies import digest_of
from workshop.evaluation.evaluation import Answers, Fraction, evaluation_of
from workshop.evaluation.trial import Trial

Report = weights.Report


class FidelityBelowFloor(RuntimeError):
    """A variant's answers differ too much. The message, for operators, lists each failed measure with its floor."""


def judge(spec: ModelSpec, variant: VariantSpec, folder: Path, report: Report) -> dict[str, float]:
    """Compare a variant whose files are in `folder` with its model's reference.

    Returns:
        the measures; empty if one of the two cannot run on this machine, which `report` then says.

    Raises:
        FidelityBelowFloor: a measure misses its floor, or there is no such measure.
        TrialFailed: the variant cannot be loaded, or dies.
    """
    needed = variant.needs.gpus or spec.variant(spec.reference_variant).needs.gpus
    if needed and not gpus():
        report("not compared with the reference: that needs a GPU")
        return {}
    report("comparing its answers with the reference's")
    reference = reference_answers(spec, report)
    with Trial(spec, variant, folder) as trial:
        found = evaluation_of(spec.task).compare(reference, trial.answers())
    if broken := below_floor(spec, found):
        raise FidelityBelowFloor(f"It is not fit to stand for {spec.row}: {broken}. Nothing was published.")
    return found


def below_floor(spec: ModelSpec, found: Mapping[str, float]) -> str:
    """The measures that miss their floors, in words; empty if none does."""
    measures = evaluation_of(spec.task).measures
    broken = []
    for name, floor in spec.fidelity.items():
        measure, value = measures[name], found.get(name, float("nan"))
        if not measure.keeps(value, floor):
            side = "at least" if measure.higher_is_better else "at most"
            broken.append(f"{measure.title} is {value:.4g}{measure.unit} and must be {side} {floor:g}{measure.unit}")
    return "; ".join(broken)


def reference_answers(spec: ModelSpec, report: Report, fraction: Fraction = lambda done: None) -> Answers:
    """The reference's answers to the evaluation set. They are stored on this machine, and made again when the
    reference, the model's settings or the task's evaluation changes."""
    variant = spec.variant(spec.reference_variant)
    folder = weights.fetch(spec, variant, report)
    file = kept_answers(spec)
    if not file.exists():
        report(f"asking the reference, {spec.reference_variant}, once")
        with Trial(spec, variant, folder) as trial:
            keep(trial.answers(fraction), file)
    with np.load(file) as saved:
        return {name: saved[name] for name in saved.files}


def kept_answers(spec: ModelSpec) -> Path:
    """The file of the reference's answers. Its name covers everything they depend on: the reference, the model's
    settings and the task's evaluation, but not the module of the artifact's maker."""
    variant = spec.variant(spec.reference_variant)
    facts = {
        "made_as": made_as(spec, spec.reference_variant),
        "variant": variant.model_dump(mode="json", exclude={"artifact"}),
        "row": settings(spec),
        "evaluation": digest_of(spec.task),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return weights.model_folder(spec.row, weights.source_of(spec, variant)) / "answers" / f"{digest}.npz"


def settings(spec: ModelSpec) -> dict[str, object]:
    """The parts of a catalog row, besides the variant, that answers depend on."""
    of_others = {"variants", "default_variant", "reference", "fidelity", "id", "title", "licence", "owner"}
    row = spec.model_dump(mode="json", exclude=of_others)
    return {**row, "capabilities": sorted(row["capabilities"])}


def keep(answers: Answers, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        unfinished = Path(folder) / file.name
        np.savez_compressed(unfinished, allow_pickle=False, **answers)
        os.replace(unfinished, file)
