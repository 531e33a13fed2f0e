"""Plots as SVG in the page itself."""

from __future__ import annotations

import io
from typing import Any

INK, GOOD, BAD, LIMIT = "#2b5c8a", "#3a8f5a", "#b3372f", "#b3372f"


def canvas(title: str, across: str, up: str, rows: int = 0) -> tuple[Any, Any]:
    """
    Args:
        rows: of names of any length at the left; 0 if there are numbers.
    """
    from matplotlib.figure import Figure  # only here: the tests themselves do not draw

    # To find room for names takes matplotlib as long as to draw; numbers have the same room in each plot.
    figure = Figure(figsize=(6.0, max(2.6, 1.2 + 0.55 * (rows or 4))), layout="constrained" if rows else None)
    axes = figure.subplots() if rows else figure.add_axes((0.11, 0.16, 0.82, 0.73))
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def logarithmic(axes: Any) -> None:
    """Across, with plain numbers: the powers of ten that are matplotlib's custom are slow to set."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")


def svg(figure: Any) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Without a date and with names of our own, the same figures give the same page.
    with rc_context({"svg.hashsalt": "medley", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", dpi=110, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]
