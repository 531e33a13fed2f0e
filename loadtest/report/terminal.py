"""The table that is shown when a test ends."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from loadtest.records import BEYOND_PROMISE

COLOURS = {"passed": "green", "failed": "red", "inconclusive": "yellow"}
TITLES = {
    "time_to_first_token_s": "first token",
    "time_per_output_token_s": "each token",
    "time_to_first_audio_s": "first sound",
    "real_time_factor": "real-time factor",
    "duration_s": "whole",
}


def show(document: dict[str, Any], out: TextIO) -> None:
    console = Console(file=out, width=None if out.isatty() else 160, highlight=False)
    console.print(latencies(document))
    console.print(rules(document))
    for line in refusals(document):
        console.print(line)
    for one in document.get("comparison", ()):
        said = f"B is {one['b_is']}" if one["b_is"] else "no difference is proven"
        found = f"{one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        console.print(f"A/B {one['model']} {TITLES[one['figure']]}: {found}: {said}")
    for one in document["models"]:
        worst = ", ".join(f"{each['id']} ({each['duration_s']:.2f} s)" for each in one["worst"])
        if worst:
            console.print(f"slowest of {name_of(one)}: {worst}", style="dim")
    health = document["health"]
    pressure = "unknown" if health["pressure"] is None else f"{health['pressure']:.0%}"
    console.print(
        f"generator: lag p99 {health['lag_p99_s'] * 1000:.1f} ms of {health['allowed_lag_s'] * 1000:.0f} allowed, "
        f"{health['cpu']:.2f} cores, pressure of the machine {pressure}",
        style="dim",
    )
    if health["ill"]:
        console.print(f"The load generator was not healthy: {health['ill']}.", style="yellow")
    colour = COLOURS[document["outcome"]]
    console.print(f"[bold {colour}]{document['outcome'].upper()}[/] {document['scenario']}: {document['proves']}")


def latencies(document: dict[str, Any]) -> Table:
    table = Table(
        title=f"{document['attempts']} attempts in {document['seconds']:.0f} s, schedule {document['schedule']}"
    )
    for head in ("model", "attempts", "good", "refused", "given up", "figure", "p50", "p95", "p99", "limit"):
        table.add_column(head, justify="left" if head in ("model", "figure") else "right")
    for one in document["models"]:
        first = (
            *(name_of(one), str(one["attempts"]), f"{one['share_good']:.1%}"),
            *(str(one["refused"]), str(one["given_up"])),
        )
        lines = one["figures"].items() or [("", {})]
        for number, (name, values) in enumerate(lines):
            limit = one["limits"].get(name)
            table.add_row(
                *(first if number == 0 else ("",) * len(first)),
                TITLES.get(name, name),
                *(shown(name, values.get(key)) for key in ("p50", "p95", "p99")),
                shown(name, limit),
            )
    return table


def rules(document: dict[str, Any]) -> Table:
    table = Table()
    for head in ("rule", "of", "found", "bound", "wanted", "verdict", "why"):
        table.add_column(head, justify="right" if head in ("found", "bound", "wanted") else "left")
    for rule in document["rules"]:
        share = rule["rule"] == "goodput"
        values = (f"{rule[key]:.2%}" if share else f"{rule[key]:.0f}" for key in ("value", "bound", "wanted"))
        colour = COLOURS[rule["outcome"]]
        table.add_row(rule["rule"], rule["subject"], *values, f"[{colour}]{rule['outcome']}[/]", rule["why"])
    return table


def name_of(one: dict[str, Any]) -> str:
    return f"{one['model']} {one['build']}".strip()


def refusals(document: dict[str, Any]) -> list[str]:
    """What is to be said of requests that were refused."""
    beyond = [(name_of(one), one["beyond_promise"]) for one in document["models"] if one["beyond_promise"]]
    returns = [(name_of(one), one["returns"]) for one in document["models"] if one["returns"]["tries"]]
    return [
        *(
            f"{name}: {count} were too large to be answered in time even alone ({BEYOND_PROMISE})"
            for name, count in beyond
        ),
        *(f"{name}: {in_words(one)}" for name, one in returns),
    ]


def in_words(returns: dict[str, Any]) -> str:
    """What became of those who were refused."""
    return (
        f"{returns['at_first']} were refused at first, and {returns['came_back']} of them came back, "
        f"{returns['tries']} times in all: they were let in {returns['let_in']} times ({returns['share_let_in']:.0%})"
    )


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def shown(name: str, value: float | None) -> str:
    """A figure, in the unit that its name says."""
    if name.endswith("_s"):
        return seconds(value)
    return "" if value is None else f"{value:.2f}"
