"""A card as tables: for a terminal and for a page of documentation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from medley.look.screen import NOTHING, duration
from models.cards import Batch, Card, Spread, VariantCard
from models.choice import Choice, milliseconds
from workshop.evaluation.evaluation import evaluation_of

Row = Sequence[str]


def speed_head(card: Card) -> Row:
    within = [title_of(name) for name in timings(card)]
    items = f"{card.item}s/s"
    at_one = ["p50, 1", "p95, 1", f"{items}, 1"]
    at_eight = ["p50, 8", "p95, 8", f"{items}, 8", "times the reference, 8"]
    return ["Variant", "Disk", "Memory", "GPU memory", "Load", *at_one, *at_eight, f"CPU ms a {card.item}", *within]


def speed_rows(card: Card) -> list[Row]:
    return [
        [
            marked(one, card),
            megabytes(one.disk_bytes),
            megabytes(one.memory_bytes),
            megabytes(one.device_bytes),
            duration(one.load_s),
            *batch_cells(one.batches[1])[:3],
            *batch_cells(one.batches[8]),
            f"{one.batches[8].cpu_s_per_item * 1000:.3g}",
            *(seconds(one.batches[8].within.get(name)) for name in timings(card)),
        ]
        for one in card.variants
    ]


def fidelity_head(card: Card) -> Row:
    measures = evaluation_of(card.task).measures
    return ["Variant", *(heading(card, name, measures) for name in named_measures(card)), "Floor"]


def fidelity_rows(card: Card) -> list[Row]:
    measures = evaluation_of(card.task).measures
    rows = []
    for one in card.variants:
        values = [figure(one.fidelity.get(name), measures[name].unit) for name in named_measures(card)]
        kept = "reference" if one.variant == card.reference else one.below_floor or "kept"
        rows.append([marked(one, card), *values, kept])
    return rows


def named_measures(card: Card) -> list[str]:
    measures = evaluation_of(card.task).measures
    return [name for name in measures if any(name in one.fidelity for one in card.variants)]


def heading(card: Card, name: str, measures: object) -> str:
    measure = evaluation_of(card.task).measures[name]
    if name not in card.floors:
        return measure.title
    side = "≥" if measure.higher_is_better else "≤"
    return f"{measure.title} ({side} {card.floors[name]:g}{measure.unit})"


def speed_table(card: Card) -> Table:
    title = f"{card.model}: {card.rounds} rounds on {card.hardware}, {card.measured}"
    return as_table(title, speed_head(card), speed_rows(card))


def fidelity_table(card: Card) -> Table:
    return as_table(f"Beside {card.reference}", fidelity_head(card), fidelity_rows(card))


def choice_table(choice: Choice) -> Table:
    rows = [
        [
            one.variant,
            NOTHING if one.cost is None else milliseconds(one.cost),
            megabytes(one.memory_bytes),
            "chosen" if one.variant == choice.variant else one.refusal or "dearer",
        ]
        for one in sorted(choice.candidates, key=lambda one: (bool(one.refusal), one.cost or 0))
    ]
    item = choice.card.item if choice.card else "item"
    return as_table(None, ["Variant", f"CPU ms a {item}", "Memory", "Verdict"], rows)


def as_table(title: str | None, head: Row, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 or name in ("Floor", "Verdict") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(card: Card) -> str:
    """The page of a card in docs/variants."""
    measures = evaluation_of(card.task).measures
    lines = [
        f"# {card.model}",
        "",
        f"Measured {card.measured} on {card.hardware}, in {card.rounds} interleaved rounds, all variants loaded "
        "side by side, by",
        "",
        f"    {card.command}",
        "",
        f"Plots: [{card.model}.html]({card.model}.html). Figures: [{card.model}.json]({card.model}.json). In brackets "
        "is what another run should lie between. Written by that command; do not edit.",
        "",
        "## What it takes",
        "",
        *markdown_table(speed_head(card), speed_rows(card)),
        "",
        f"## What it answers, beside {card.reference}",
        "",
        *markdown_table(fidelity_head(card), fidelity_rows(card)),
        "",
        *(f"- {measures[name].title}: {measures[name].means}" for name in named_measures(card)),
        "",
    ]
    if card.skipped:
        lines += ["## Not measured here", "", *(f"- {name}: {why}" for name, why in card.skipped.items()), ""]
    lines += ["Versions: " + ", ".join(f"{name} {version}" for name, version in card.versions.items()) + ".", ""]
    return "\n".join(lines)


def markdown_table(head: Row, rows: Sequence[Row]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def batch_cells(batch: Batch) -> Row:
    speed, factor = batch.items_per_s, batch.against_reference
    return [seconds(batch.p50_s), seconds(batch.p95_s), with_spread(speed), with_spread(factor)]


def with_spread(spread: Spread) -> str:
    return f"{spread.value:.3g} [{spread.low:.3g}, {spread.high:.3g}]"


def marked(one: VariantCard, card: Card) -> str:
    return f"{one.variant} (reference)" if one.variant == card.reference else one.variant


def timings(card: Card) -> list[str]:
    return list(dict.fromkeys(name for one in card.variants for name in one.batches[8].within))


def title_of(name: str) -> str:
    """time_to_first_token_s -> Time to first token, 8"""
    return f"{name.removesuffix('_s').replace('_', ' ').capitalize()}, 8"


def seconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def figure(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{value:.4g}{unit}"


def megabytes(value: int | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:.4g} MB"
