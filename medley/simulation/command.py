"""`medley simulate MODEL`: the policy of a serve config on a trace, beside Ray's default policy."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from loadtest.arrivals import Arrival, Stage, of_stages, of_trace
from loadtest.bounds import quantile
from medley.simulation.result import HEAD, Result, row
from models.registry import import_string

if TYPE_CHECKING:  # they import numpy, which `medley` does not wait for
    from deployments.servers.calls import Terms
    from deployments.servers.pace import Work
    from medley.simulation.cluster import Policy, Run, Settings

RAYS_OWN = "ray.serve.autoscaling_policy:_core_replica_queue_length_policy"
# Tokens, where the traffic does not say. Tokens of a prompt that are read in a step.
USUAL_PROMPT, USUAL_ANSWER, CHUNK = 200, 50, 512


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
    first_s: Annotated[float, typer.Option(help="seconds that a usual prompt takes a replica to read")] = 0.02,
    token_s: Annotated[float, typer.Option(help="seconds for each token of an answer that is alone")] = 0.03,
    beside_s: Annotated[
        float | None,
        typer.Option(
            help="seconds that each other answer adds to a token; by default so many that tokens take twice "
            "as long at the concurrency of the policy"
        ),
    ] = None,
    start_s: Annotated[float, typer.Option(help="seconds until a new replica takes requests")] = 30,
    wait_s: Annotated[
        float | None, typer.Option(help="promised seconds to the first token, in place of the config's promise")
    ] = None,
    come_back: Annotated[
        float, typer.Option(min=0, max=1, help="share of refused requests that come again when they were told to")
    ] = 0.5,
    price: Annotated[float, typer.Option(help="of a replica for an hour")] = 1,
    most: Annotated[int | None, typer.Option(help="at most this many replicas, in place of the config's bound")] = None,
    page: Annotated[Path | None, typer.Option(help="write a page with plots here")] = None,
    seed: Annotated[int, typer.Option()] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Replay a trace against the policy and the admission of a serve config, without a cluster, and beside Ray's
    default policy."""
    from medley.simulation.cluster import simulate

    try:
        arrivals = several(of_trace(trace, speed) if trace else of_stages(stages_of(stages), seed), copies, seed)
        works = works_of(arrivals)
        if records:
            works = drawn(measured_services(records), works, first_s, token_s, seed)
        pace = (first_s / (sum(work.read for work in works) / len(works)), token_s, beside_s)
        policy, settings = of_config(config, model, pace, wait_s)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = error.args[0] if isinstance(error, KeyError) else error
        typer.secho(str(said), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None
    settings = replace(
        settings, start_s=start_s, come_back=come_back, seed=seed, max_replicas=most or settings.max_replicas
    )
    moments = [one.at for one in arrivals]
    policies = {type(policy).__name__: policy, "Ray's default": import_string(RAYS_OWN)}
    runs = {name: simulate(moments, works, each, settings) for name, each in policies.items()}
    results = [of_run(name, run, price) for name, run in runs.items()]
    if page:
        from medley.simulation.page import page as drawn_page

        page.write_text(drawn_page(model, moments, runs, results, settings))
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=1))
    else:
        show(model, results, len(arrivals), page)


def of_config(
    file: Path, model: str, pace: tuple[float, float, float | None], wait_s: float | None
) -> tuple[Policy, Settings]:
    """The policy and settings of an application's deployment, and the promise of the router.

    Args:
        pace: seconds for a token that is read, for one that is written, and what each other answer adds to it.

    Raises:
        ValueError: it is not there, or does not autoscale.
    """
    from medley.simulation.cluster import Settings
    from medley.simulation.replica import Machine

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
    at_once = kwargs.get("concurrency") or kwargs.get("target_ongoing_requests") or deployment["max_ongoing_requests"]
    per_read, token_s, beside_s = pace
    beside_s = token_s / at_once if beside_s is None else beside_s
    settings = Settings(
        machine=Machine(max(1e-6, token_s - beside_s), beside_s, per_read, noise=0.0, chunk=CHUNK, budget=4 * CHUNK),
        at_once=at_once,
        terms=promised(apps, model, wait_s),
        min_replicas=scaling.get("min_replicas", 1),
        max_replicas=scaling.get("max_replicas", 1),
        upscale_delay_s=scaling.get("upscale_delay_s", 30),
        downscale_delay_s=scaling.get("downscale_delay_s", 600),
        look_back_s=scaling.get("look_back_period_s", 30),
        interval_s=scaling.get("metrics_interval_s", 10),
        target_ongoing_requests=at_once,
    )
    return policy, settings


def promised(apps: dict[str, dict[str, Any]], model: str, wait_s: float | None) -> Terms:
    """What the config's router promises for a model. `wait_s` replaces the time to the first token."""
    from deployments.router.promises import Asker, Promises
    from deployments.settings import RouterArgs

    args = RouterArgs(**(apps.get("router", {}).get("args") or {}))
    targets = args.profile().of_model(model) if args.promises else None
    terms = Promises({model: targets} if targets else {}).terms(model, Asker(), stream=True)
    return terms if wait_s is None else replace(terms, first_s=wait_s)


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


def works_of(arrivals: Sequence[Arrival]) -> list[Work]:
    from deployments.servers.pace import Work

    return [
        Work(float(one.prompt_tokens or USUAL_PROMPT), float(one.output_tokens or USUAL_ANSWER)) for one in arrivals
    ]


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


def drawn(measured: Sequence[float], works: Sequence[Work], first_s: float, token_s: float, seed: int) -> list[Work]:
    """Requests that take a replica as long as measured ones, alone."""
    draw = random.Random(seed)
    return [replace(work, steps=max(1.0, (draw.choice(measured) - first_s) / token_s)) for work in works]


def of_run(name: str, run: Run, price: float) -> Result:
    up = [each[1] for each in run.replicas]
    return Result(
        policy=name,
        requests=len(run.waits) + run.refused,
        refused=run.refused,
        refusals=run.refusals,
        beyond=run.beyond,
        good=run.goodput(),
        wait_p50_s=quantile(run.waits, 0.5),
        wait_p99_s=quantile(run.waits, 0.99),
        replicas_mean=sum(up) / len(up),
        replicas_most=max(up),
        replica_s=run.replica_seconds,
        utilisation=run.work_s / run.replica_seconds,
        cost=run.replica_seconds / 3600 * price,
    )


def show(model: str, results: Sequence[Result], requests: int, page: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{model}: {requests} requests; good is what was answered as promised")
    for head in HEAD:
        table.add_column(head, justify="left" if head == "policy" else "right")
    for one in results:
        table.add_row(*row(one))
    console = Console(highlight=False)
    console.print(table)
    if beyond := results[0].beyond:
        console.print(
            f"{beyond} of the requests cannot be answered as promised even alone, at these --first-s and --token-s."
        )
    if page:
        console.print(f"Page: {page}")
