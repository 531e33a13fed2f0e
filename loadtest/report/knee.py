"""The page of a search: goodput against rate, and the knee."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from loadtest.report.drawing import BAD, GOOD, INK, canvas, svg
from loadtest.report.templates import render
from loadtest.searching import Found


def write(found: Found, folder: Path) -> None:
    """search.json and search.html, with the plot of goodput against rate."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {**asdict(found), "monotone": found.monotone, "words": found.words()}
    (folder / "search.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "search.html").write_text(render_page(found))


def render_page(found: Found) -> str:
    rows = [
        [
            f"{probe.rate:.3g}",
            f"{probe.goodput:.3g}",
            f"{probe.share:.1%}",
            {True: "holds", False: "broken", None: "unclear"}[probe.holds],
        ]
        for probe in found.probes
    ]
    return render("search.html", words=found.words(), plot=knee(found), rows=rows)


def knee(found: Found) -> str:
    figure, axes = canvas("good requests per second", "requests per second", "", rows=6)
    ordered = sorted(found.probes, key=lambda probe: probe.rate)
    axes.plot([0, ordered[-1].rate], [0, ordered[-1].rate], color="#bbb", linewidth=1, linestyle=":", label="all good")
    axes.plot([probe.rate for probe in ordered], [probe.goodput for probe in ordered], color=INK, linewidth=1)
    for probe in ordered:
        axes.plot(probe.rate, probe.goodput, "o", color={True: GOOD, False: BAD, None: "#e0a030"}[probe.holds])
    if found.low and found.high:
        axes.axvspan(found.low, found.high, color="#e0a030", alpha=0.2, label="the promises cease to be kept")
    axes.legend(fontsize=8)
    return svg(figure)
