"""`medley k8s`: render, generate, package and check the overlays, without a cluster."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from medley.k8s.chart import chart
from medley.k8s.findings import Finding, Findings
from medley.k8s.generated import generated
from medley.k8s.operator_rules import operator_problems
from medley.k8s.overlays import Object, OverlayError, of_kind, overlay_of, overlays, render, text_of
from medley.k8s.pod_security import pod_problems
from medley.k8s.pods import pods_of
from medley.k8s.rules import house_problems, placeholders, serve_config_of
from medley.k8s.scheduling import UNREADABLE, placements, scheduling_problems, words
from medley.k8s.schemas import CRDS, core_problems, crds, ray_problems

app = typer.Typer(
    no_args_is_help=True,
    help="The overlays of k8s/: render, generate, check, chart. No cluster is needed.",
)
Overlay = Annotated[str, typer.Argument(help="a name below k8s/overlays, or a path")]


@app.command("render")
def print_rendered(overlay: Overlay) -> None:
    """Print what `kubectl apply -k` would apply."""
    try:
        typer.echo(text_of(overlay_of(overlay)), nl=False)
    except OverlayError as error:
        raise fail(error) from None


@app.command("generate")
def write_generated() -> None:
    """Write the files of k8s/ that are made from others: serve configs, rules, the dashboard."""
    try:
        texts = generated()
    except OverlayError as error:
        raise fail(error) from None
    for file, text in texts.items():
        changed = is_stale(file, text)
        file.write_text(text)
        typer.echo(f"  {file}{'' if changed else ' (as it was)'}")


@app.command("chart")
def write_chart(
    overlay: Overlay,
    folder: Annotated[Path, typer.Argument(help="a new folder for the chart, or an earlier chart to overwrite")],
) -> None:
    """Write a Helm chart of an overlay: the same objects, with images, host, volumes and group sizes as values."""
    try:
        source = overlay_of(overlay)
        files = chart(source.name, render(source))
        if folder.exists() and any(folder.iterdir()) and not (folder / "Chart.yaml").exists():
            raise OverlayError(f"{folder} has files and is not a chart. Name a new folder.")
    except OverlayError as error:
        raise fail(error) from None
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    typer.echo(f"{folder} is the chart of {source.name}. Its values: {folder / 'values.yaml'}")
    typer.echo(f"helm install medley {folder} --namespace medley")


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="overlays; all of them when none is named")] = None,
    as_shipped: Annotated[
        bool, typer.Option("--as-shipped", help="let pass what is left for you to fill in before it can be applied")
    ] = False,
) -> None:
    """Check overlays: Kubernetes' and KubeRay's schemas, pod security, what the operator and Medley ask for, and which
    group each model starts. Exit code 1: something is wrong, or is left to fill in.
    """
    try:
        wanted = [overlay_of(name) for name in names] if names else overlays()
        stale = [Finding(str(file), "", "is stale: run `medley k8s generate`.") for file in stale_files()]
        if crds() is None:
            typer.secho(f"{CRDS} names no folder of KubeRay's CRDs: Ray's kinds are not checked by schema.", err=True)
        if not shutil.which("promtool"):
            typer.secho("promtool is not here: the expressions of PrometheusRules are not checked.", err=True)
        wrong = len(stale)
        for finding in stale:
            typer.secho(f"  {finding}", fg=typer.colors.RED)
        for overlay in wanted:
            wrong += show(overlay, as_shipped)
    except OverlayError as error:
        raise fail(error) from None
    if wrong:
        typer.secho(f"{wrong} mistake{'s' if wrong > 1 else ''}.", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


def show(overlay: Path, as_shipped: bool) -> int:
    """Check an overlay and say what was found. Returns how many mistakes there are."""
    objects = render(overlay)
    found = list(dict.fromkeys([*problems_of(objects), *(() if as_shipped else placeholders(objects))]))
    typer.secho(f"{overlay.name}: {len(objects)} objects, {len(found)} mistakes", bold=True)
    for finding in found:
        typer.secho(f"  {finding}", fg=typer.colors.RED)
    for service in of_kind(objects, "RayService"):
        with contextlib.suppress(*UNREADABLE):  # what cannot be read is reported among the findings
            Console(width=None if sys.stdout.isatty() else 140).print(table_of(service))
    return len(found)


def problems_of(objects: list[Object]) -> Findings:
    """Everything that is wrong with the objects of an overlay."""
    folder = crds()
    for one in objects:
        yield from core_problems(one)
        if folder:
            yield from ray_problems(one, folder)
        for subject, pod in pods_of(one):
            yield from core_problems(pod, subject)
            yield from pod_problems(subject, pod)
        if one["kind"] == "PrometheusRule":
            yield from rule_problems(one)
    for service in of_kind(objects, "RayService"):
        yield from operator_problems(service)
    found = list(house_problems(objects))
    yield from found
    for service in of_kind(objects, "RayService"):
        if serve_config_of(service) and not any("serveConfigV2" in one.where for one in found):
            yield from scheduling_problems(service, serve_config_of(service))


def rule_problems(one: Object) -> Iterator[Finding]:
    """Check rules with Prometheus' own promtool, if it is installed."""
    if not (promtool := shutil.which("promtool")):
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.dump(one["spec"], file, getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        file.flush()
        done = subprocess.run([promtool, "check", "rules", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        yield Finding(f"PrometheusRule {one['metadata']['name']}", "", (done.stderr or done.stdout).strip())


def table_of(service: Object) -> Table:
    """Which nodes one replica of each model starts where nothing runs yet."""
    table = Table(title="Ray's autoscaler, asked for one replica on an empty cluster", title_justify="left")
    for head in ("application", "one replica needs", "starts", "replicas"):
        table.add_column(head)
    for one in placements(service, serve_config_of(service)):
        nodes = "nothing: infeasible"
        if one.groups is not None:
            nodes = ", ".join(f"{count} {group}" for group, count in sorted(one.groups.items()))
        table.add_row(one.demand.application, words(one.demand), nodes, f"{one.demand.least} to {one.demand.most}")
    return table


def stale_files() -> list[Path]:
    return [file for file, text in generated().items() if is_stale(file, text)]


def is_stale(file: Path, text: str) -> bool:
    return not file.exists() or file.read_text() != text


def fail(error: OverlayError) -> typer.Exit:
    typer.secho(str(error), fg=typer.colors.RED, err=True)
    return typer.Exit(2)
