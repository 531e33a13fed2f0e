"""How the commands that look show what they found."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import typer
from rich.console import Console

NOTHING = "-"
# Wide enough for every table: what is piped into another program is not cut.
PIPED_WIDTH = 200


def screen() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def amount(value: float | None) -> str:
    """A number with as many digits as matter: 0.25, 4, 22.6."""
    return NOTHING if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def gib(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f} GiB"


def duration(seconds: float | None) -> str:
    """Seconds in a readable unit: 12 ms, 3.1 s, 44 s, 12 min, 3 h."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def ago(then: float, now: float) -> str:
    return f"{duration(max(0.0, now - then))} ago"


def clock(unix_s: float) -> str:
    """The time of day to the millisecond, as the logs write it."""
    seconds, milliseconds = divmod(round(unix_s * 1000), 1000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{milliseconds:03d}"
