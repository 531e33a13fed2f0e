"""A simulation as one page with plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loadtest.report.drawing import LIMIT, canvas, svg
from medley.look.page import render
from medley.simulation.cluster import Run, Settings
from medley.simulation.result import HEAD, row

COLOURS = ("#2b5c8a", "#e0a030")


def page(
    model: str,
    moments: Sequence[float],
    runs: Mapping[str, Run],
    results: Sequence[Any],
    settings: Settings,
) -> str:
    return render(
        "simulation/page.html",
        model=model,
        requests=len(moments),
        settings=settings,
        head=HEAD,
        rows=[row(one) for one in results],
        drawings=(traffic(moments), replicas(runs), waits(runs, settings.terms.first_s)),
    )


def traffic(moments: Sequence[float]) -> str:
    figure, axes = canvas("requests per second", "seconds", "")
    edges = np.linspace(0, max(moments), 200)
    axes.plot(edges[:-1], np.histogram(moments, edges)[0] / (edges[1] - edges[0]), color="#888", linewidth=1)
    return svg(figure)


def replicas(runs: Mapping[str, Run]) -> str:
    figure, axes = canvas("replicas that take requests", "seconds", "")
    for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
        step = max(1, len(run.replicas) // 1000)
        axes.step(
            [one[0] for one in run.replicas[::step]], [one[1] for one in run.replicas[::step]], color=colour, label=name
        )
    axes.set_ylim(bottom=0)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    return svg(figure)


def waits(runs: Mapping[str, Run], promised_s: float) -> str:
    figure, axes = canvas("share of the answered that began so soon", "seconds", "")
    for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
        shares = np.linspace(0, 1, 500)
        axes.plot(np.maximum(np.quantile(run.waits or [0.0], shares), 1e-3), shares, color=colour, label=name)
    if math.isfinite(promised_s):
        axes.axvline(promised_s, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.legend(fontsize=8)
    return svg(figure)
