"""How a deploy comes up, for people to watch and for logs to keep."""

from __future__ import annotations

import time
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from medley.change.rollout import Step, Word


def show_progress(rollout: Iterator[dict[str, Step]], console: Console) -> None:
    """In a terminal, a table that is redrawn. Elsewhere, a line for each event."""
    began = time.monotonic()
    seen: dict[str, Step] = {}
    ready_after: dict[str, float] = {}
    with Live(console=console, refresh_per_second=4, auto_refresh=console.is_terminal) as table:
        for steps in rollout:
            elapsed = time.monotonic() - began
            for name, step in steps.items():
                if step.word is Word.READY:
                    ready_after.setdefault(name, elapsed)
            if console.is_terminal:
                table.update(progress(steps, ready_after, elapsed))
                continue
            for name, step in steps.items():
                if line := news(name, step, seen.get(name), elapsed):
                    typer.echo(line)
            seen = steps


def progress(steps: dict[str, Step], ready_after: dict[str, float], elapsed: float) -> Table:
    """One row per application: its name, where it stands, the seconds it took or has taken so far."""
    table = Table.grid(padding=(0, 2))
    for name, step in steps.items():
        table.add_row(f"  {name}", step.word, step.detail, f"{ready_after.get(name, elapsed):.0f} s")
    return table


def news(name: str, step: Step, before: Step | None, elapsed: float) -> str:
    """A line for a log, when an application has become ready or failed, or is in another phase of its start."""
    phase = step.detail.split(" ")[0]
    if before and (step.word, phase) == (before.word, before.detail.split(" ")[0]):
        return ""
    match step.word:
        case Word.READY | Word.FAILED:
            return f"  {name}: {step.word} after {elapsed:.0f} s"
        case Word.LOADING if phase:
            return f"  {name}: {step.detail}"
    return ""
