"""`medley doctor`: why a model is not ready, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import httpx
import typer
from rich.text import Text

from medley.change import history
from medley.local import cluster
from medley.look.application_status import statuses
from medley.look.diagnosis.order import Check, Patient, Verdict, diagnose
from medley.look.exposition import scrape, targets
from medley.look.live import Live, look
from medley.look.screen import print_json, screen

MARKS = {Verdict.OK: ("ok", "green"), Verdict.FAILED: ("FAILED", "red"), Verdict.NOT_REACHED: ("not reached", "dim")}

ModelName = Annotated[str | None, typer.Argument(help="all deployed models when none is named", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="for programs")]


def doctor(model: ModelName = None, as_json: Json = False) -> None:
    """Say why a model is not ready and what to do next. Sends it one tiny request when it is. Exit code 0: healthy."""
    with cluster.dashboard() as serve, httpx.Client(trust_env=False) as client:
        live = look(serve, client)
        reports = [(name, diagnose(patient(name, live, client))) for name in ([model] if model else deployed(live))]
    if as_json:
        print_json([report_document(name, checks) for name, checks in reports])
    else:
        for name, checks in reports:
            screen().print(report(name, checks))
    if not all(healthy(checks) for _, checks in reports):
        raise typer.Exit(1)


def deployed(live: Live) -> list[str | None]:
    """Every deployed model; a single None where none is, which is a finding of its own."""
    return [one.app for one in statuses(live) if one.is_model] or [None]


def patient(model: str | None, live: Live, client: httpx.Client) -> Patient:
    return Patient(
        model=model,
        live=live,
        processes=len(cluster.processes()),
        client=client,
        metrics=scrape(client, targets()),
        last_start_s=history.cold_starts().get(model or ""),
        logs=cluster.logs(),
    )


def healthy(checks: list[Check]) -> bool:
    return all(check.verdict is Verdict.OK for check in checks)


def report_document(model: str | None, checks: list[Check]) -> dict:
    """One model's checks, for programs."""
    return {"model": model, "healthy": healthy(checks), "checks": [asdict(check) for check in checks]}


def report(model: str | None, checks: list[Check]) -> Text:
    """One model's checks, a line each, and the command to run next."""
    text = Text(f"{model or 'cluster'}\n", style="bold")
    for check in checks:
        word, style = MARKS[check.verdict]
        first, *rest = check.finding.splitlines() or [""]
        text.append(f"  {word:<12}", style=style)
        text.append(f"{check.name:<14}{first}\n", style="dim" if check.verdict is Verdict.NOT_REACHED else "not bold")
        for line in rest:
            text.append(f"{'':<16}{'':<12}{line}\n", style="not bold")
        if check.next:
            text.append(f"{'':<16}{'':<12}next: {check.next}\n", style="yellow not bold")
    return text
