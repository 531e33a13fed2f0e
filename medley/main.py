"""The command line."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from loadtest.commands import app as loadtest
from medley import guard
from medley.change.deploy import (
    DEFAULT_CONFIG,
    ConfigPath,
    Patience,
    console,
    deploy,
    fail,
    failures_in_words,
    fetch_models,
    plan,
    rollback,
    start,
    wait_for_models,
)
from medley.change.lock import only_writer
from medley.checks.command import check
from medley.checks.config import ClusterConfig, read_config
from medley.k8s.command import app as k8s
from medley.local import cluster
from medley.local.cluster import ClusterError
from medley.local.home import client_environment
from medley.local.preflight import DASHBOARD_PORT, problems
from medley.look import doctor, logs, status, top
from medley.monitoring.command import monitoring
from medley.simulation.command import command as simulate
from medley.variants import command as variant
from models.catalog import load_catalog
from models.secret_file import SecretUnsafe
from models.tasks import TASKS


class Commands(TyperGroup):
    """The commands. What any of them may meet is said in words here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SecretUnsafe as error:
            fail(str(error))
        except TyperException as error:
            error.message += of_a_model(error.message)
            raise


def of_a_model(message: str) -> str:
    """What to write where a model was named to a command that takes none. Empty for any other complaint."""
    model = None
    with contextlib.suppress(ValueError):  # a catalog that cannot be read is told by `medley check`
        model = next((word for word in re.findall(r"[\w.@-]+", message) if word in load_catalog()), None)
    if model is None:
        return ""
    return f" {model} is a model: `medley doctor {model}` says how it is, `medley logs --model {model}` what it logged."


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, help="One endpoint in front of many open models."
)

Cpus = Annotated[int | None, typer.Option(help="CPUs that Ray may use; all of this machine's unless given")]


@app.command()
def up(config: ConfigPath = DEFAULT_CONFIG, patience: Patience = 600, cpus: Cpus = None) -> None:
    """Start the cluster on this machine and wait until every model is ready."""
    with failures_in_words():
        wanted = read_config(config)
        if cluster.processes():
            raise ClusterError("The cluster is running already. `make stop` ends it; `medley deploy` changes it.")
        if found := problems(wanted, cpus):
            raise ClusterError("The cluster cannot start here:\n" + "\n".join(f"  - {problem}" for problem in found))
        fetch_models(wanted)
        with only_writer():  # refuse now, not after Ray has come up, if a deploy is under way
            pass
        bring_up(wanted, patience, cpus)
    say_how_to_use(wanted)


@app.command()
def down() -> None:
    """Stop the cluster and every process of it."""
    with failures_in_words(), console.status("Stopping"):
        count = cluster.stop()
    console.print(f"Stopped {count} processes." if count else "Nothing was running.")


@app.command()
def fetch(
    config: ConfigPath = DEFAULT_CONFIG,
    verify: Annotated[
        bool, typer.Option(help="also compare every file with its checksum, and replace what is damaged")
    ] = False,
    wait: Annotated[
        float | None, typer.Option(min=0, help="fetch nothing: wait so many seconds until another process has")
    ] = None,
) -> None:
    """Download and convert the models of a config. Done once; the second time takes no time."""
    with failures_in_words():
        if wait is None:
            fetch_models(read_config(config), verify)
        else:
            wait_for_models(read_config(config), wait)


@app.command()
def env() -> None:
    """Print what Ray's own command line needs: `eval "$(medley env)"`, then `serve status`."""
    for name, value in client_environment(DASHBOARD_PORT).items():
        typer.echo(f"export {name}={value}")


app.add_typer(variant.app, name="variant")
app.add_typer(loadtest, name="loadtest")
app.add_typer(k8s, name="k8s")
app.command("simulate")(simulate)
for command in (
    check,
    plan,
    deploy,
    rollback,
    status.status,
    status.models,
    doctor.doctor,
    logs.logs,
    top.top,
    monitoring,
):
    app.command()(command)


def bring_up(wanted: ClusterConfig, patience: float, cpus: int | None) -> None:
    """Start Ray and deploy. If that fails, stop what was started."""
    try:
        with console.status("Starting Ray"):
            cluster.start_ray(cpus)
        start(wanted, patience)
        guard.start(cpus)
        say_who_else_may_connect(wanted)
    except (ClusterError, KeyboardInterrupt) as error:
        console.print("Stopping what was started.")
        cluster.stop()
        fail(str(error) or "Interrupted.")


def say_who_else_may_connect(config: ClusterConfig) -> None:
    """Compare what listens with what the config says: only its port may be open to other machines."""
    for port, name in sorted(cluster.open_to_others().items()):
        if port != config.port:
            console.print(
                f"Warning: {name} listens for other machines, too, on port {port}. Close it in your firewall."
            )


def say_how_to_use(config: ClusterConfig) -> None:
    address = config.address
    console.print(f"\nMedley serves at [bold]{address}/v1[/bold]. The API is described at {address}/docs.")
    console.print(f"Models: {', '.join(model.spec.id for model in config.models)}\n")
    from deployments.router.routes import example_of  # only here: it imports a web framework

    in_order = sorted(config.models, key=lambda model: TASKS.index(model.spec.task))
    examples = ((example_of(model.spec.task), model.spec.id) for model in in_order)
    for example, model in examples:
        if example is not None:
            body = json.dumps(example.for_model(model))
            typer.echo(f"curl {address}{example.path} -H 'Content-Type: application/json' \\\n  -d '{body}'\n")
            break
    console.print("`medley status` shows how it is doing; `make stop` ends it.")


if __name__ == "__main__":
    app()
