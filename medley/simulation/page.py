"""A simulation as one page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loadtest.report.drawing import LIMIT, canvas, svg
from medley.look.page import render
from medley.simulation.cluster import Run, Settings

COLOURS = ("#2b5c8a", "#e0a030")


def page(  # noqa: PLR0917
    model: str,
    moments: Sequence[float],
    runs: Mapping[str, Run],
    results: Sequence[Any],
    settings: Settings,
    wait_s: float,
) -> str:
    rows = [
        [
            one.policy,
            f"{one.good:.2%}",
            f"{one.wait_p99_s:.2f} s",
            f"{one.replicas_mean:.1f}",
            str(one.replicas_most),
            f"{one.replica_s:.0f}",
            f"{one.cost:.2f}",
        ]
        for one in results
    ]
    return render(
        "simulation/page.html",
        model=model,
        requests=len(moments),
        settings=settings,
        wait_s=wait_s,
        head=("policy", "good", "wait p99", "replicas", "at most", "replica-seconds", "cost"),
        rows=rows,
        drawings=(traffic(moments), replicas(runs), waits(runs, wait_s)),
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


def waits(runs: Mapping[str, Run], wait_s: float) -> str:
    figure, axes = canvas("share that waited at most so long", "seconds", "")
    for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
        shares = np.linspace(0, 1, 500)
        axes.plot(np.maximum(np.quantile(run.waits, shares), 1e-3), shares, color=colour, label=name)
    axes.axvline(wait_s, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.legend(fontsize=8)
    return svg(figure)
