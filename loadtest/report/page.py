"""The report as a web page with plots, in one file that loads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from loadtest.records import Record
from loadtest.report.drawing import BAD, GOOD, INK, LIMIT, canvas, logarithmic, svg
from loadtest.report.templates import render
from loadtest.report.terminal import TITLES, name_of, refusals, seconds, shown


def render_page(document: dict[str, Any], attempts: Sequence[Record]) -> str:
    tables = {"latencies": latencies(document), "slowest": slowest(document)}
    said = [f"{line}." for line in refusals(document)]
    return render("report.html", **document, **tables, refusals=said, plots=plots_of(document, attempts))


def latencies(document: dict[str, Any]) -> list[list[str]]:
    return [
        [
            name_of(one),
            str(one["attempts"]),
            f"{one['share_good']:.1%}",
            str(one["refused"]),
            str(one["given_up"]),
            TITLES[name],
            *(shown(name, values[key]) for key in ("p50", "p95", "p99")),
            shown(name, one["limits"].get(name)),
        ]
        for one in document["models"]
        for name, values in one["figures"].items()
    ]


def slowest(document: dict[str, Any]) -> list[list[str]]:
    return [
        [name_of(one), each["id"], seconds(each["duration_s"]), seconds(each["queue_s"]), str(each["tokens"])]
        for one in document["models"]
        for each in one["worst"]
    ]


def plots_of(document: dict[str, Any], attempts: Sequence[Record]) -> list[str]:
    plots = []
    for one in document["models"]:
        found = [record for record in attempts if (record.subject, record.build) == (one["model"], one["build"])]
        for name in one["figures"]:
            if name == "duration_s" and "time_to_first_token_s" in one["figures"]:
                continue
            limit, title = one["limits"].get(name), f"{name_of(one)}: {TITLES[name]}"
            plots += [over_time(title, found, name, limit), distribution(title, found, name, limit)]
        if any(record.chunks > 1 for record in found):
            plots.append(gaps(name_of(one), found))
    plots += [traffic(attempts), lags(attempts, document["health"]["allowed_lag_s"])]
    if document.get("comparison"):
        plots.append(forest(document["comparison"]))
    return plots


def unit_of(name: str) -> str:
    return "seconds" if name.endswith("_s") else "seconds for one of sound"


def over_time(title: str, found: Sequence[Record], name: str, limit: float | None) -> str:
    figure, axes = canvas(title, "seconds since the start", unit_of(name))
    points = [(record.due, record.figures()[name]) for record in found if record.answered and name in record.figures()]
    axes.scatter(*zip(*points, strict=True), s=7, color=INK, alpha=0.6, linewidths=0, rasterized=len(points) > 2000)
    bad = [record.due for record in found if not record.answered and not record.left]
    if bad:
        axes.plot(bad, [0] * len(bad), "x", color=BAD, markersize=5, label="refused, given up or failed")
        axes.legend(fontsize=8)
    if limit:
        axes.axhline(limit, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)
    return svg(figure)


def distribution(title: str, found: Sequence[Record], name: str, limit: float | None) -> str:
    figure, axes = canvas(f"{title}, share that took at most this long", unit_of(name), "")
    values = np.sort([record.figures()[name] for record in found if record.answered and name in record.figures()])
    # Answers that never came count too, so the curve may end below 1.
    attempts = sum(not record.left for record in found)
    axes.step(values, np.arange(1, len(values) + 1) / attempts, where="post", color=INK)
    logarithmic(axes)
    axes.set_ylim(0, 1.02)
    if limit:
        axes.axvline(
            limit, color=LIMIT, linestyle="--", linewidth=1, label=f"limit {limit:g}{' s' * name.endswith('_s')}"
        )
        axes.legend(fontsize=8, loc="lower right")
    return svg(figure)


def gaps(title: str, found: Sequence[Record]) -> str:
    figure, axes = canvas(f"{title}: longest wait between two pieces of an answer", "seconds", "answers")
    axes.hist([record.max_gap for record in found if record.chunks > 1], bins=30, color=INK)
    return svg(figure)


def traffic(attempts: Sequence[Record]) -> str:
    """Attempts per second, and how many are under way."""
    figure, axes = canvas("requests per second, and, grey, under way", "seconds since the start", "")
    end = max([1.0, *(record.last or record.due for record in attempts)])
    edges = np.linspace(0, end, min(120, max(10, int(end))) + 1)
    width = edges[1] - edges[0]

    def rate(chosen: Callable[[Record], bool]) -> np.ndarray:
        return np.histogram([record.due for record in attempts if chosen(record)], edges)[0] / width

    answered = rate(lambda record: record.answered or record.left)
    refused = rate(lambda record: record.refused or record.beyond)
    given_up = rate(lambda record: record.given_up)
    rest = rate(lambda record: True) - answered - refused - given_up
    axes.stackplot(
        edges[:-1],
        answered,
        refused,
        given_up,
        rest,
        step="post",
        colors=(GOOD, "#e0a030", "#888", BAD),
        labels=("answered", "refused", "given up", "failed"),
    )
    moments = np.linspace(0, end, 300)
    begins, ends = (
        np.sort([getattr(record, key) for record in attempts if record.sent is not None and record.last is not None])
        for key in ("sent", "last")
    )
    other = axes.twinx()
    other.plot(moments, np.searchsorted(begins, moments) - np.searchsorted(ends, moments), color="#888", linewidth=1)
    other.spines["top"].set_visible(False)
    axes.legend(fontsize=8, loc="upper left")
    return svg(figure)


def lags(attempts: Sequence[Record], allowed: float) -> str:
    figure, axes = canvas("the generator: how late requests left", "seconds since the start", "milliseconds")
    points = [(record.due, record.lag * 1000) for record in attempts if record.lag is not None]
    if points:
        axes.scatter(*zip(*points, strict=True), s=6, color=INK, alpha=0.6, linewidths=0, rasterized=len(points) > 2000)
    axes.axhline(allowed * 1000, color=LIMIT, linestyle="--", linewidth=1)
    return svg(figure)


def forest(comparison: Sequence[dict[str, Any]]) -> str:
    names = [f"{one['model']}\n{TITLES[one['figure']]}" for one in comparison]
    figure, axes = canvas("B beside A: ratio of medians, and its interval", "above 1, B is slower", "", rows=len(names))
    for place, one in enumerate(comparison):
        colour = {"slower": BAD, "faster": GOOD, "": INK}[one["b_is"]]
        axes.plot(one["blocks"], [place + 0.18] * len(one["blocks"]), "|", color="#999", markersize=6)
        axes.plot((one["low"], one["high"]), (place, place), color=colour, linewidth=2)
        axes.plot(one["ratio"], place, "o", color=colour)
    axes.axvline(1, color="#888", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(-0.6, len(names) - 0.4)
    return svg(figure)
