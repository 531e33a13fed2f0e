"""`medley top`: what each model does, from the cluster's own metrics, again and again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import httpx
import typer
from rich.console import Group
from rich.live import Live as LiveDisplay
from rich.table import Table
from rich.text import Text

from deployments.telemetry import (
    DURATION,
    ERRORS,
    FIRST_TOKEN,
    IN_FLIGHT,
    QUEUE_WAIT,
    REQUESTS,
    TOKENS,
    Metric,
)
from medley.local.cluster import dashboard
from medley.look.application_status import ApplicationStatus, statuses
from medley.look.exposition import Difference, Scrape, scrape, targets
from medley.look.live import Live, look
from medley.look.screen import NOTHING, duration, gib, screen
from medley.look.status import COLOURS, UNREACHABLE, memory_by_application
from models.errors import AtCapacity, NoRoom, RateLimited, TooBusy

# Ray's processes report every 10 s, so that over less time nothing may seem to have happened.
SURELY_REPORTED_S = 15

# Codes of 429s.
REFUSALS = tuple(error.code for error in (RateLimited, TooBusy, AtCapacity, NoRoom))

Every = Annotated[float, typer.Option(min=0.5, help="seconds between two frames")]
Window = Annotated[float, typer.Option(min=1, help="seconds that rates and quantiles are taken over")]
Once = Annotated[bool, typer.Option("--once", help="print one frame, after `--window` seconds")]


def top(every: Every = 2, window: Window = 20, once: Once = False) -> None:
    """What each model does now: rates, latencies, queues, errors, memory. Ctrl-C ends it."""
    with dashboard() as serve, httpx.Client(trust_env=False) as client:
        history = History(window)

        def frame() -> Frame:
            history.add(scrape(client, targets()))
            live = look(serve, client)
            return Frame(live, history.difference(), memory_by_application(live), history.age_s())

        if once:
            show_once(frame, window)
        else:
            show_live(frame, every)


def show_once(frame: Callable[[], Frame], window: float) -> None:
    frame()
    time.sleep(window)
    last = frame()
    console = screen()
    console.print(drawn(last, console.width))
    if not last.live.reachable:
        raise typer.Exit(UNREACHABLE)


def show_live(frame: Callable[[], Frame], every: float) -> None:
    try:
        with LiveDisplay(console=screen(), auto_refresh=False) as display:
            while True:
                display.update(drawn(frame(), display.console.width), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


class History:
    """The scrapes of the last `window_s` seconds, and when each process was seen to report."""

    def __init__(self, window_s: float):
        self.window_s = window_s
        self.scrapes: deque[Scrape] = deque()
        self._reported: dict[str, float] = {}

    def add(self, new: Scrape) -> None:
        last = self.scrapes[-1] if self.scrapes else None
        for worker, content in new.written.items():
            if last and worker in last.written and last.written[worker] != content:
                self._reported[worker] = new.at
        self.scrapes.append(new)
        # Keep one scrape that is at least the window old, the youngest of those, and all after it.
        while len(self.scrapes) > 2 and new.at - self.scrapes[1].at >= self.window_s:
            self.scrapes.popleft()

    def difference(self) -> Difference:
        """What happened within the window. Empty as long as a process may not have reported since it began."""
        first, last = self.scrapes[0], self.scrapes[-1]
        settled = self.age_s() is not None or last.at - first.at >= SURELY_REPORTED_S
        return Difference(first if settled else last, last)

    def age_s(self) -> float | None:
        """Age in seconds of the oldest figures of any process; None until every process has reported once."""
        last = self.scrapes[-1]
        workers = last.workers()
        if not workers or not workers <= self._reported.keys():
            return None
        return last.at - min(self._reported[worker] for worker in workers)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one model did. None means unknown, not zero.

    Attributes:
        requests, errors, refused, read, written: per second. `refused` are 429s, `errors` all others; `read` and
            `written` are tokens.
        wait, first, whole: quantiles in seconds: of the queue, to the first token, of successful requests.
    """

    requests: float | None
    in_flight: float | None
    wait_p95: float | None
    first_p50: float | None
    first_p95: float | None
    whole_p50: float | None
    whole_p95: float | None
    read: float | None
    written: float | None
    errors: float | None
    refused: float | None


def figures(difference: Difference, model: str) -> Figures:
    """What a model did between two scrapes."""

    def rate(metric: Metric, **labels: str) -> float | None:
        return difference.rate(metric, model=model, **labels)

    def quantile(q: float, metric: Metric) -> float | None:
        return difference.quantile(q, metric, model=model)

    requests, failed = rate(REQUESTS), rate(ERRORS)
    full = _sum([rate(ERRORS, code=code) for code in REFUSALS])
    # A counter exists from its first count on. Where requests are counted, a missing error counter means no errors.
    none_yet = 0.0 if requests is not None else None
    return Figures(
        requests=requests,
        in_flight=difference.after.gauge(IN_FLIGHT, model=model),
        wait_p95=quantile(0.95, QUEUE_WAIT),
        first_p50=quantile(0.5, FIRST_TOKEN),
        first_p95=quantile(0.95, FIRST_TOKEN),
        whole_p50=quantile(0.5, DURATION),
        whole_p95=quantile(0.95, DURATION),
        read=rate(TOKENS, direction="prompt"),
        written=rate(TOKENS, direction="completion"),
        errors=none_yet if failed is None else failed - (full or 0),
        refused=_or(rate(REQUESTS, status="429"), none_yet),
    )


def _or(value: float | None, otherwise: float | None) -> float | None:
    return otherwise if value is None else value


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of `medley top`.

    Attributes:
        memory: GiB by application.
        age_s: how old the oldest figures are; None where that is not known yet.
    """

    live: Live
    difference: Difference
    memory: dict[str, float] = field(default_factory=dict)
    age_s: float | None = None


def drawn(frame: Frame, width: int) -> Group:
    """The picture, as one table or, where the screen is narrow, as two."""
    if not frame.live.reachable:
        return Group(Text("No cluster answers here. `medley up` starts one.", style="red"))
    models = [one for one in statuses(frame.live) if one.is_model]
    did = [figures(frame.difference, one.app) for one in models]
    rows = [_row(*pair, frame) for pair in zip(models, did, strict=True)]
    if len(models) > 1:
        rows.append(_total(models, did, frame))
    wide = width >= WIDE
    tables = [_table(COLUMNS, rows, 2)] if wide else [_table(TRAFFIC, rows, 1), Text(), _table(LATENCY, rows, 1)]
    return Group(*tables, Text("\n".join([_age(frame), *frame.live.gaps.values()]), style="dim"))


TRAFFIC = ("model", "state", "req/s", "in flight", "err/s", "429/s", "replicas", "memory")
LATENCY = ("model", "wait p95", "first p50/p95", "whole p50/p95", "tokens/s in/out")
COLUMNS = (*TRAFFIC[:4], *LATENCY[1:], *TRAFFIC[4:])
WIDE = 140
LEFT = ("model", "state")


def _table(columns: tuple[str, ...], rows: list[dict[str, str | Text]], gap: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in columns))
    return table


def _row(one: ApplicationStatus, did: Figures, frame: Frame) -> dict[str, str | Text]:
    return {
        "model": one.app,
        "state": Text(one.phase_text or one.state.replace("_", " "), style=COLOURS.get(one.state, "")),
        "req/s": _rate(did.requests),
        "in flight": _count(did.in_flight),
        "wait p95": duration(did.wait_p95),
        "first p50/p95": _pair(duration(did.first_p50), duration(did.first_p95)),
        "whole p50/p95": _pair(duration(did.whole_p50), duration(did.whole_p95)),
        "tokens/s in/out": _pair(_rate(did.read), _rate(did.written)),
        "err/s": _rate(did.errors),
        "429/s": _rate(did.refused),
        "replicas": _replicas(one),
        "memory": gib(frame.memory.get(one.app)),
    }


def _total(models: list[ApplicationStatus], did: list[Figures], frame: Frame) -> dict[str, str | Text]:
    """Sums over all models. Quantiles cannot be summed."""

    def total(name: str) -> float | None:
        return _sum([getattr(one, name) for one in did])

    return {
        "model": "total",
        "req/s": _rate(total("requests")),
        "in flight": _count(total("in_flight")),
        "tokens/s in/out": _pair(_rate(total("read")), _rate(total("written"))),
        "err/s": _rate(total("errors")),
        "429/s": _rate(total("refused")),
        "replicas": str(sum(one.replicas for one in models)),
        "memory": gib(_sum([frame.memory.get(one.app) for one in models])),
    }


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _age(frame: Frame) -> str:
    if not frame.difference.after.values:
        return "No figures: no metrics endpoint answers."
    if not frame.difference.after.workers():
        return "No figures: no process reports metrics of Medley's. The argument `metrics` turns them on."
    spread = frame.difference.seconds
    over = f"Rates and quantiles over the last {spread:.0f} s. " if spread >= 1 else "No rates yet. "
    if frame.age_s is None:
        return over + "Processes report every 10 s; not all have been seen to yet."
    return over + f"The oldest figures were reported {duration(frame.age_s)} ago."


def _replicas(one: ApplicationStatus) -> str:
    return str(one.replicas) if one.wanted in (None, one.replicas) else f"{one.replicas}/{one.wanted}"


def _rate(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.2g}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _pair(first: str, second: str) -> str:
    return NOTHING if (first, second) == (NOTHING, NOTHING) else f"{first} / {second}"
