"""The command line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from medley import cluster
from medley.config import ClusterConfig, ConfigError, read_config
from medley.home import client_environment
from medley.preflight import DASHBOARD_PORT, problems

app = typer.Typer(no_args_is_help=True, add_completion=False, help="One endpoint in front of many open models.")
console = Console(highlight=False)

ConfigPath = Annotated[Path, typer.Argument(help="the serve config")]
Patience = Annotated[float, typer.Option(help="seconds to wait for every model to be ready")]
Cpus = Annotated[int | None, typer.Option(help="CPUs that Ray shall count on, if not those there are")]
DEFAULT_CONFIG = Path("serve_config.yaml")
WORDS = {"NOT_STARTED": "waiting", "DEPLOYING": "loading", "RUNNING": "ready", "DEPLOY_FAILED": "failed"}


@app.command()
def up(config: ConfigPath = DEFAULT_CONFIG, patience: Patience = 600, cpus: Cpus = None) -> None:
    """Start the cluster on this machine and wait until every model is ready."""
    wanted = checked(config)
    if cluster.processes():
        fail("The cluster is running already. `make stop` ends it; `medley deploy` changes it.")
    if found := problems(wanted, cpus):
        fail("The cluster cannot start here:\n" + "\n".join(f"  - {problem}" for problem in found))
    started = time.monotonic()
    fetch_models(wanted)
    try:
        with console.status("Starting Ray"):
            cluster.start_ray(cpus)
        bring_up(wanted, patience, started)
    except (cluster.ClusterError, KeyboardInterrupt) as error:
        console.print("Stopping what was started.")
        cluster.stop()
        fail(str(error) or "Interrupted.")
    say_how_to_use(wanted)


@app.command()
def deploy(config: ConfigPath = DEFAULT_CONFIG, patience: Patience = 600) -> None:
    """Bring a running cluster to what the config says, touching only what differs."""
    wanted = checked(config)
    fetch_models(wanted)
    try:
        bring_up(wanted, patience, time.monotonic())
    except cluster.ClusterError as error:
        fail(str(error))


@app.command()
def down() -> None:
    """Stop the cluster and every process of it."""
    try:
        with console.status("Stopping"):
            count = cluster.stop()
    except cluster.ClusterError as error:
        fail(str(error))
    console.print(f"Stopped {count} processes." if count else "Nothing was running.")


@app.command()
def fetch(
    config: ConfigPath = DEFAULT_CONFIG,
    verify: Annotated[bool, typer.Option(help="also compare every file with its checksum")] = False,
) -> None:
    """Download and convert the models of a config. Done once; the second time takes no time."""
    from models import weights

    wanted = checked(config)
    fetch_models(wanted)
    if not verify:
        return
    for model in wanted.models:
        try:
            weights.verify(model.spec, model.variant)
        except weights.WeightsDamaged as error:
            fail(str(error))
        console.print(f"  {model.app}: every file is whole")


@app.command()
def env() -> None:
    """Print what Ray's own command line needs: `eval "$(medley env)"`, then `serve status`."""
    for name, value in client_environment(DASHBOARD_PORT).items():
        typer.echo(f"export {name}={value}")


def checked(path: Path) -> ClusterConfig:
    try:
        return read_config(path)
    except ConfigError as error:
        fail(str(error))


def fetch_models(config: ClusterConfig) -> None:
    """Have the weights of every model on this machine."""
    from models import weights

    for model in config.models:
        try:
            weights.fetch(model.spec, model.variant, lambda text, name=model.app: console.print(f"  {name}: {text}"))
        except Exception as error:
            fail(f"{model.app}: its weights cannot be had. {error}")


def bring_up(config: ClusterConfig, patience: float, started: float) -> None:
    """Deploy, and show how each application comes up."""
    cluster.deploy(config)
    ready_after: dict[str, float] = {}
    with Live(console=console, refresh_per_second=4, auto_refresh=console.is_terminal) as live:
        for states in cluster.watch(config, patience):
            elapsed = time.monotonic() - started
            ready = [name for name, state in states.items() if state == "RUNNING" and name not in ready_after]
            ready_after |= dict.fromkeys(ready, elapsed)
            if console.is_terminal:
                live.update(progress(states, ready_after, elapsed))
                continue
            for name in ready:  # a line each in a log file, where nothing can be drawn over
                typer.echo(f"  {name}: ready after {elapsed:.0f} s")


def progress(states: dict[str, str], ready_after: dict[str, float], elapsed: float) -> Table:
    """One row per application: its name, its state, the seconds it took or has taken so far."""
    table = Table.grid(padding=(0, 2))
    for name, state in states.items():
        word = WORDS.get(state, state.lower())
        table.add_row(f"  {name}", word, f"{ready_after.get(name, elapsed):.0f} s")
    return table


def say_how_to_use(config: ClusterConfig) -> None:
    address = config.address
    console.print(f"\nMedley serves at [bold]{address}/v1[/bold]. People read {address}/docs.", soft_wrap=True)
    console.print(f"Models: {', '.join(model.spec.id for model in config.models)}\n", soft_wrap=True)
    chat = next((model for model in config.models if model.spec.task == "chat"), None)
    if chat:
        body = {"model": chat.spec.id, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
        typer.echo(
            f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' \\\n  -d '{json.dumps(body)}'\n"
        )
    console.print("`make stop` ends it.")


def fail(message: str) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
