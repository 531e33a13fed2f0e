"""Cards: the measurements of a model's variants, side by side, as they are stored and shown."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from models.hardware import Hardware, this_hardware
from models.sources import Spec
from models.specs import AnyTask
from models.weights import home

# Beside the package in a checkout: the cards that Medley publishes.
PUBLISHED = Path(__file__).parents[1] / "docs" / "variants"


class Spread(Spec):
    """A figure that was measured in several rounds.

    Attributes:
        value: the median.
        low, high: the bounds in which a later run should lie. They span the rounds, and at least `margin` to both
            sides, because a machine changes more from hour to hour than from minute to minute.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Iterable[float], margin: float) -> Spread:
        ordered = sorted(rounds)
        middle = len(ordered) // 2
        value = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        return cls(value=value, low=min(ordered[0], value * (1 - margin)), high=max(ordered[-1], value * (1 + margin)))

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


class Batch(Spec):
    """Requests of one batch size.

    Attributes:
        p50_s, p95_s: seconds for the whole request.
        items_per_s: throughput of requests one after the other.
        against_reference: items_per_s divided by the reference's in the same round.
        cpu_s_per_item: CPU seconds, of all processes.
        within: medians of times that only the engine knows, in seconds.
    """

    requests: int
    p50_s: float
    p95_s: float
    items_per_s: Spread
    against_reference: Spread
    cpu_s_per_item: float
    within: dict[str, float] = {}


class VariantCard(Spec):
    """
    Attributes:
        made_as: the artifact that was measured, with its options.
        disk_bytes: of the files that are loaded. memory_bytes: peak resident memory. device_bytes: GPU memory.
        load_s: from the start of the process until it could answer, with imports, and with files in the page cache.
        batches: by their size.
        fidelity: measures by name. The reference has them too, against itself.
        below_floor: the measures that miss the model's floor, in words; empty when all keep it.
    """

    variant: str
    backend: str
    precision: str
    gpus: float
    threads: int
    made_as: str
    disk_bytes: int
    memory_bytes: int
    device_bytes: int | None = None
    load_s: float
    batches: dict[int, Batch]
    fidelity: dict[str, float]
    below_floor: str = ""


class Card(Spec):
    """
    Attributes:
        item: the unit of throughput, such as "text".
        versions: of the libraries that ran.
        skipped: the reason for each variant that was not measured.
        command: reproduces the card.
    """

    model: str
    task: AnyTask
    item: str
    reference: str
    floors: dict[str, float]
    measured: datetime.date
    hardware: Hardware
    versions: dict[str, str]
    rounds: int
    command: str
    variants: tuple[VariantCard, ...]
    skipped: dict[str, str] = Field(default_factory=dict)

    def of(self, variant: str) -> VariantCard | None:
        return next((card for card in self.variants if card.variant == variant), None)

    def was_judged_by(self, floors: dict[str, float]) -> bool:
        """Whether the card was made with these floors. Stored floors are rounded."""
        return rounded(self.floors) == rounded(floors)

    def text(self) -> str:
        """The stored form: JSON, numbers to four digits."""
        return json.dumps(rounded(self.model_dump(mode="json")), indent=1) + "\n"


def outside(before: Card, after: Card) -> tuple[list[str], int]:
    """What a second run does not reproduce.

    Returns:
        in words, each throughput and factor outside the spread that the first card states; and the number of figures
        that were compared.
    """
    found, compared = [], 0
    for one in after.variants:
        was = before.of(one.variant)
        if was is None:
            continue
        for size in sorted(one.batches.keys() & was.batches.keys()):
            for name in ("items_per_s", "against_reference"):
                old, new = getattr(was.batches[size], name), getattr(one.batches[size], name).value
                compared += 1
                if not old.holds(new):
                    found.append(
                        f"{one.variant}, batch of {size}, {name}: {new:.4g}, and was "
                        f"{old.value:.4g} [{old.low:.4g}, {old.high:.4g}]"
                    )
    return found, compared


def rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def measured_here() -> Path:
    """The folder for cards that were measured on this machine."""
    return home() / "cards"


def keep(card: Card) -> Path:
    file = measured_here() / f"{card.model}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(card.text())
    unfinished.replace(file)
    return file


def read(file: Path) -> Card:
    return Card.model_validate_json(file.read_text())


def card_for(model: str) -> Card | None:
    """The card that is valid on this machine: one measured here, or else a published one of the same hardware."""
    for folder in (measured_here(), PUBLISHED):
        file = folder / f"{model}.json"
        if not file.exists():
            continue
        try:
            card = read(file)
        except ValueError:  # written by another release of Medley
            continue
        if card.hardware.is_like(this_hardware()):
            return card
    return None
