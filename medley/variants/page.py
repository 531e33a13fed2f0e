"""A card as one HTML page with plots. It loads nothing from anywhere."""

from __future__ import annotations

import math
from typing import Any

from loadtest.report.drawing import INK, svg
from medley.look.page import render
from medley.variants.tables import fidelity_head, fidelity_rows, named_measures, speed_head, speed_rows
from models.cards import Card
from workshop.evaluation.evaluation import evaluation_of

REFERENCE, FLOOR = "#8a8a8a", "#b3372f"


def page(card: Card) -> str:
    measures = evaluation_of(card.task).measures
    return render(
        "variants/page.html",
        card=card,
        drawings=plots_of(card),
        speed=(speed_head(card), speed_rows(card)),
        fidelity=(fidelity_head(card), fidelity_rows(card)),
        measures=[measures[name] for name in named_measures(card)],
    )


def plots_of(card: Card) -> list[str]:
    """Throughput, latency, memory and disk, and each measure against its floor; SVG."""
    names = [one.variant for one in card.variants]
    measures = evaluation_of(card.task).measures
    speeds = [one.batches[8].items_per_s for one in card.variants]
    plots = [
        bars(f"{card.item}s a second, 8 at once", names, [speed.value for speed in speeds], card,
             ranges=[(speed.low, speed.high) for speed in speeds]),
        latency_plot(card, names),
        bars("memory, MB", names, [one.memory_bytes / 1e6 for one in card.variants], card),
        bars("disk, MB", names, [one.disk_bytes / 1e6 for one in card.variants], card),
    ]  # fmt: skip
    others = [one for one in card.variants if one.variant != card.reference]
    for name in named_measures(card):
        values = [one.fidelity.get(name, float("nan")) for one in others]
        title = measures[name].title + (f", {measures[name].unit.strip()}" if measures[name].unit.strip() else "")
        if others:
            plots.append(bars(title, [one.variant for one in others], values, card, floor=card.floors.get(name)))
    return plots


def bars(
    title: str,
    names: list[str],
    values: list[float],
    card: Card,
    *,
    ranges: list[tuple[float, float]] | None = None,
    floor: float | None = None,
) -> str:
    figure, axes = canvas(title, len(names))
    colours = [REFERENCE if name == card.reference else INK for name in names]
    errors = None
    if ranges:
        errors = [
            [value - low for value, (low, _) in zip(values, ranges, strict=True)],
            [high - value for value, (_, high) in zip(values, ranges, strict=True)],
        ]
    drawn = axes.barh(names, values, color=colours, xerr=errors, ecolor="#222", capsize=3)
    axes.bar_label(drawn, labels=[f"{value:.4g}" for value in values], padding=4, fontsize=9)
    if floor is not None:
        axes.axvline(floor, color=FLOOR, linestyle="--", label=f"floor {floor:g}")
        axes.legend(loc="lower right", fontsize=8)
    show_differences(axes, [*values, *([floor] if floor is not None else [])])
    return svg(figure)


def latency_plot(card: Card, names: list[str]) -> str:
    figure, axes = canvas("milliseconds of a request: p50 and, thin, p95", len(names))
    for batch, offset, colour in ((1, 0.2, "#5a9bd4"), (8, -0.2, INK)):
        p50 = [one.batches[batch].p50_s * 1000 for one in card.variants]
        p95 = [one.batches[batch].p95_s * 1000 for one in card.variants]
        places = [place + offset for place in range(len(names))]
        axes.barh(places, p95, height=0.12, color=colour, alpha=0.5)
        axes.barh(places, p50, height=0.36, color=colour, label=f"{batch} at once")
    axes.set_yticks(range(len(names)), names)
    axes.legend(loc="lower right", fontsize=8)
    return svg(figure)


def canvas(title: str, rows: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # only here: the command line must not wait for it

    figure = Figure(figsize=(5.8, 1.1 + 0.42 * rows), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.18)
    return figure, axes


def show_differences(axes: Any, values: list[float]) -> None:
    """Begin the axis near the values where they are close together: cosines of 0.99 and 0.999 look alike from 0."""
    known = [value for value in values if math.isfinite(value)]
    if known and min(known) > 0 and max(known) / min(known) < 1.3 and max(known) > min(known):
        reach = max(known) - min(known)
        axes.set_xlim(min(known) - reach, max(known) + reach * 0.6)
