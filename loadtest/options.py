"""What a run is asked for on the command line, of `locust -f loadtest/locustfile.py` and of `medley loadtest` alike."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from pathlib import Path

from loadtest import scenario

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked for; `add_to` says what each is."""

    address: str
    scenario: str = "smoke"
    slo: Path = Path("slo.yaml")
    promises: str = "cpu"
    rate: float | None = None
    seconds: float | None = None
    seed: int = 1
    models: tuple[str, ...] = ()
    trace: Path | None = None
    speed: float = 1.0
    skip: int = 0
    most: int | None = None
    against: str | None = None
    report: Path = Path("loadtest-report")
    headers: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def add_to(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("Medley load tests")
    group.add_argument("--scenario", default="smoke", help=f"one of {', '.join(scenario.names())}, or a file")
    group.add_argument("--slo", default=str(ROOT / "slo.yaml"), help="file of promises")
    group.add_argument("--promises", default="cpu", help="the profile of that file")
    group.add_argument("--rate", type=float, default=None, help="largest rate of requests per second")
    group.add_argument("--seconds", type=float, default=None, help="length of the schedule")
    group.add_argument("--seed", type=int, default=1, help="of schedule and requests")
    group.add_argument("--models", default="", help="which models are asked, by commas, where a task has several")
    group.add_argument("--trace", default="", help="a CSV to replay: TIMESTAMP, ContextTokens, GeneratedTokens")
    group.add_argument("--speed", type=float, default=1.0, help="how many times faster than it was recorded")
    group.add_argument("--skip", type=int, default=0, help="rows of the trace to leave out first")
    group.add_argument("--most", type=int, default=None, help="rows of the trace to replay")
    group.add_argument("--against", default="", help="a second server; requests go to either at random")
    group.add_argument("--report", default="loadtest-report", help="folder for report.json, .xml, .html, records.jsonl")
    group.add_argument("--keys", default="", help="NAME=ENVIRONMENT_VARIABLE by commas: keys of the scenario's tenants")


def of(parsed: Namespace) -> Options:
    """Raises ValueError: a value makes no sense, or a key's variable is not set; the message says which."""
    if not parsed.host:
        raise ValueError("Say which server to test, such as --host http://127.0.0.1:8000")
    for name in ("rate", "seconds", "speed"):
        value = getattr(parsed, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be above 0")
    key = os.environ.get("MEDLEY_API_KEY")
    return Options(
        address=parsed.host.rstrip("/"),
        scenario=parsed.scenario,
        slo=Path(parsed.slo),
        promises=parsed.promises,
        rate=parsed.rate,
        seconds=parsed.seconds,
        seed=parsed.seed,
        models=tuple(filter(None, parsed.models.split(","))),
        trace=Path(parsed.trace) if parsed.trace else None,
        speed=parsed.speed,
        skip=parsed.skip,
        most=parsed.most,
        against=parsed.against.rstrip("/") or None,
        report=Path(parsed.report),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        keys=keys_of(parsed.keys),
    )


def keys_of(text: str) -> dict[str, str]:
    keys = {}
    for pair in filter(None, text.split(",")):
        tenant, _, variable = pair.partition("=")
        if variable not in os.environ:
            raise ValueError(f"--keys: the environment variable {variable!r} of {tenant!r} is not set")
        keys[tenant] = os.environ[variable]
    return keys
