"""`medley simulate MODEL`: the policy of a serve config on a trace, beside Ray's default policy."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from loadtest.arrivals import Arrival, Stage, of_stages, of_trace
from loadtest.bounds import quantile
from medley.simulation.cluster import Policy, Run, Settings, simulate
from models.registry import import_string

RAYS_OWN = "ray.serve.autoscaling_policy:_core_replica_queue_length_policy"


@dataclass(frozen=True, slots=True)
class Result:
    """
    Attributes:
        good: share of requests that waited at most the limit. replica_s: seconds of replicas, starting ones too.
        utilisation: share of their places that were busy. cost: replica_s by the price of an hour.
    """

    policy: str
    requests: int
    refused: int
    good: float
    wait_p50_s: float
    wait_p99_s: float
    replicas_mean: float
    replicas_most: int
    replica_s: float
    utilisation: float
    cost: float


def command(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help="an application of the serve config")],
    config: Annotated[Path, typer.Option(help="serve config, whose policy, bounds and delays are taken")] = Path(
        "serve_config.yaml"
    ),
    trace: Annotated[Path | None, typer.Option(help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens")] = None,
    stages: Annotated[str, typer.Option(help="instead of a trace: RATExSECONDS by commas")] = "1x60,5x120,1x120",
    speed: Annotated[float, typer.Option(help="how many times faster than the trace was recorded")] = 1,
    copies: Annotated[int, typer.Option(min=1, help="replay this many copies at once, each a little later")] = 1,
    records: Annotated[
        Path | None, typer.Option(help="records.jsonl of a load test: its times of service are drawn from")
    ] = None,
    first_s: Annotated[float, typer.Option(help="seconds that a request takes before its tokens")] = 0.2,
    token_s: Annotated[float, typer.Option(help="seconds for each token of its answer")] = 0.03,
    start_s: Annotated[float, typer.Option(help="seconds until a new replica takes requests")] = 30,
    wait_s: Annotated[float, typer.Option(help="seconds; a request that waits no longer than this is good")] = 1,
    price: Annotated[float, typer.Option(help="of a replica for an hour")] = 1,
    most: Annotated[int | None, typer.Option(help="at most this many replicas, in place of the config's bound")] = None,
    page: Annotated[Path | None, typer.Option(help="write a page with plots here")] = None,
    seed: Annotated[int, typer.Option()] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Replay a trace against the policy of a serve config, without a cluster, and beside Ray's default policy."""
    try:
        policy, settings = of_config(config, model, start_s, most)
        arrivals = of_trace(trace, speed) if trace else of_stages(stages_of(stages), seed)
        measured = measured_services(records) if records else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = error.args[0] if isinstance(error, KeyError) else error
        typer.secho(str(said), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None
    arrivals = several(arrivals, copies, seed)
    services = (
        drawn(measured, len(arrivals), seed) if measured else [service(one, first_s, token_s) for one in arrivals]
    )
    moments = [one.at for one in arrivals]
    policies = {type(policy).__name__: policy, "Ray's default": import_string(RAYS_OWN)}
    runs = {name: simulate(moments, services, each, settings) for name, each in policies.items()}
    results = [of_run(name, run, settings, wait_s, price) for name, run in runs.items()]
    if page:
        from medley.simulation.page import page as drawn_page

        page.write_text(drawn_page(model, moments, runs, results, settings, wait_s))
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=1))
    else:
        show(model, results, len(arrivals), wait_s, page)


def of_config(file: Path, model: str, start_s: float, most: int | None) -> tuple[Policy, Settings]:
    """The policy and settings of an application's deployment.

    Raises:
        ValueError: it is not there, or does not autoscale.
    """
    document = yaml.safe_load(file.read_text())
    apps = {entry["name"]: entry for entry in document["applications"]}
    if model not in apps:
        raise ValueError(f"{file} has no application {model!r}; it has {', '.join(apps)}.")
    deployment = apps[model]["deployments"][0]
    scaling = deployment.get("autoscaling_config")
    if not scaling or "policy" not in scaling:
        raise ValueError(f"{model} in {file} has no autoscaling_config with a policy.")
    kwargs = scaling["policy"].get("policy_kwargs", {})
    policy = import_string(scaling["policy"]["policy_function"])(**kwargs)
    slots = kwargs.get("concurrency") or kwargs.get("target_ongoing_requests") or deployment["max_ongoing_requests"]
    settings = Settings(
        slots=math.ceil(slots),
        start_s=start_s,
        min_replicas=scaling.get("min_replicas", 1),
        max_replicas=most or scaling.get("max_replicas", 1),
        upscale_delay_s=scaling.get("upscale_delay_s", 30),
        downscale_delay_s=scaling.get("downscale_delay_s", 600),
        look_back_s=scaling.get("look_back_period_s", 30),
        interval_s=scaling.get("metrics_interval_s", 10),
        most_queued=queued_at_most(deployment, apps),
        target_ongoing_requests=slots,
    )
    return policy, settings


def queued_at_most(deployment: dict[str, Any], apps: dict[str, dict[str, Any]]) -> int | None:
    """Each router queues by itself, as many as the deployment says; None for no end."""
    most = deployment.get("max_queued_requests", -1)
    routers = (apps.get("router", {}).get("deployments") or [{}])[0].get("num_replicas", 1)
    return None if most < 0 else most * routers


def stages_of(text: str) -> list[Stage]:
    """Raises ValueError: not RATExSECONDS."""
    try:
        pairs = [part.split("x") for part in text.split(",")]
        return [Stage(float(rate), float(seconds)) for rate, seconds in pairs]
    except ValueError:
        raise ValueError(f"--stages {text!r}: write RATExSECONDS by commas, such as 1x60,5x120.") from None


def several(arrivals: Sequence[Arrival], copies: int, seed: int) -> list[Arrival]:
    """The traffic of this many services with the same trace, each up to a minute later."""
    draw = random.Random(seed)
    shifts = [draw.uniform(0, 60) if copy else 0.0 for copy in range(copies)]
    all_of = [Arrival(one.at + shift, one.prompt_tokens, one.output_tokens) for shift in shifts for one in arrivals]
    return sorted(all_of, key=lambda one: one.at)


def service(arrival: Arrival, first_s: float, token_s: float) -> float:
    return first_s + token_s * (arrival.output_tokens or 50)


def measured_services(file: Path) -> list[float]:
    """Seconds of work of the answered requests of a load test. Raises ValueError: it has none."""
    from loadtest import records

    found = [
        one.last - one.tried - (one.queue_s or 0)
        for one in records.read(file)
        if one.answered and one.last and one.tried is not None
    ]
    if not found:
        raise ValueError(f"{file} has no answered request.")
    return found


def drawn(measured: Sequence[float], count: int, seed: int) -> list[float]:
    return random.Random(seed).choices(measured, k=count)


def of_run(name: str, run: Run, settings: Settings, wait_s: float, price: float) -> Result:
    up = [each[1] for each in run.replicas]
    return Result(
        policy=name,
        requests=len(run.waits) + run.refused,
        refused=run.refused,
        good=run.goodput(wait_s),
        wait_p50_s=quantile(run.waits, 0.5),
        wait_p99_s=quantile(run.waits, 0.99),
        replicas_mean=sum(up) / len(up),
        replicas_most=max(up),
        replica_s=run.replica_seconds,
        utilisation=sum(run.services) / settings.slots / run.replica_seconds,
        cost=run.replica_seconds / 3600 * price,
    )


def show(model: str, results: Sequence[Result], requests: int, wait_s: float, page: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{model}: {requests} requests; good is to wait at most {wait_s:g} s")
    heads = ("policy", "good", "wait p50", "wait p99", "replicas", "at most", "replica-seconds", "busy", "cost")
    for head in heads:
        table.add_column(head, justify="left" if head == "policy" else "right")
    for one in results:
        table.add_row(
            one.policy, f"{one.good:.2%}", f"{one.wait_p50_s:.2f} s", f"{one.wait_p99_s:.2f} s",
            f"{one.replicas_mean:.1f}", str(one.replicas_most), f"{one.replica_s:.0f}", f"{one.utilisation:.0%}",
            f"{one.cost:.2f}",
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    if page:
        console.print(f"Page: {page}")
