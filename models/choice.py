"""`auto`: choose the cheapest variant that keeps the model's fidelity floor and its task's promise.

The choice rests on measurements from hardware like this machine's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from models import weights
from models.cards import Card, VariantCard, card_for
from models.slo import Targets, load_slo
from models.specs import ModelSpec

# CPU-hours for the price of one GPU-hour: clouds charge about this much more for a data-centre GPU than for a core.
CPUS_A_GPU = 40
# The batch size to compare at: a service under load rather than a single client.
BATCH = 8

SLO = "slo.yaml"
LIMITS = ("time_to_first_token_s", "time_per_output_token_s")


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    Attributes:
        cost: CPU seconds per item; a GPU second counts as CPUS_A_GPU. None where it was not measured.
        refusal: why it cannot be chosen; empty when it can.
    """

    variant: str
    cost: float | None
    memory_bytes: int | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Attributes:
        reason: a sentence for people.
        card: the measurements behind it; None where there are none from hardware like this.
    """

    variant: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
    card: Card | None = None


def chosen_variant(spec: ModelSpec) -> str:
    return choose(spec).variant


def choose(spec: ModelSpec, slo: Path | None = None) -> Choice:
    """The variant for this machine. Without a card from hardware like this, the model's default.

    Args:
        slo: the file of promises. None: the one MEDLEY_SLO names, else slo.yaml here or in the checkout.

    Raises:
        ValueError: the file of promises is not valid.
    """
    default = spec.default_variant
    card = card_for(spec.row)
    if card is None:
        command = f"medley variant verify {spec.row}"
        return Choice(default, f"it is the default, as nothing was measured on hardware like this; `{command}` does")
    candidates = tuple(candidate(spec, name, card, slo) for name in spec.variants)
    fit = [one for one in candidates if not one.refusal]
    if not fit:
        return Choice(default, "it is the default, as no variant keeps floor and promise here", candidates, card)
    best = min(fit, key=lambda one: (one.cost, one.memory_bytes))
    return Choice(best.variant, reason(best, fit, card), candidates, card)


def reason(best: Candidate, fit: list[Candidate], card: Card) -> str:
    price = f"{milliseconds(best.cost)} CPU ms a {card.item}"
    if len(fit) == 1:
        return f"the only one that keeps floor and promise: {price}"
    return f"the cheapest of {len(fit)} that keep floor and promise: {price}"


def milliseconds(cost: float | None) -> str:
    return f"{(cost or 0) * 1000:.3g}"


def candidate(spec: ModelSpec, name: str, card: Card, slo: Path | None) -> Candidate:
    variant, measured = spec.variant(name), card.of(name)
    if measured is None:
        return Candidate(name, None, None, card.skipped.get(name, "it was not measured"))
    if measured.made_as != made_as(spec, name):
        return Candidate(name, None, None, "it was measured as it was made before; verify it again")
    if name != spec.reference_variant and not card.was_judged_by(spec.fidelity):
        return Candidate(name, None, None, "it was measured with other floors; verify it again")
    if variant.needs.gpus and not card.hardware.gpus:
        return Candidate(name, None, None, "it needs a GPU")
    refusal = measured.below_floor or too_slow(spec, measured, slo)
    return Candidate(name, cost_of(measured), measured.memory_bytes, refusal)


def made_as(spec: ModelSpec, name: str) -> str:
    """Identifies what was measured, so that a card is not applied to a different variant of the same name."""
    variant = spec.variant(name)
    folder = weights.artifact_folder(spec, variant).name if variant.artifact else "source"
    return f"{folder} {variant.engine}" if variant.engine else folder


def cost_of(measured: VariantCard) -> float:
    batch = measured.batches[BATCH]
    gpu_seconds = measured.gpus / batch.items_per_s.value
    return batch.cpu_s_per_item + CPUS_A_GPU * gpu_seconds


def too_slow(spec: ModelSpec, measured: VariantCard, slo: Path | None) -> str:
    """The promise that the variant breaks at BATCH, in words; empty when it breaks none."""
    targets = targets_of(spec, measured, slo)
    if targets is None:
        return ""
    batch = measured.batches[BATCH]
    found = {"duration_s": batch.p95_s, **{name: batch.within[name] for name in LIMITS if name in batch.within}}
    for name, seconds in found.items():
        limit = getattr(targets, name)
        if limit is not None and seconds > limit:
            return f"{name} is {seconds:.3g} s with {BATCH} at once, and {limit:g} s are promised"
    return ""


def targets_of(spec: ModelSpec, measured: VariantCard, slo: Path | None) -> Targets | None:
    file = slo or slo_file()
    if file is None:
        return None
    try:
        return load_slo(file).targets(spec.task, spec.row, "gpu" if measured.gpus else "cpu")
    except KeyError:
        return None


def slo_file() -> Path | None:
    if named := os.environ.get("MEDLEY_SLO"):
        return Path(named)
    here = (Path(SLO), Path(__file__).parents[1] / SLO)
    return next((file for file in here if file.exists()), None)
