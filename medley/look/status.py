"""`medley models` and `medley status`: what there is, and how it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import psutil
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medley.local import cluster
from medley.look.application_status import ApplicationStatus, status_of, statuses
from medley.look.live import Live, Node, Usage, look_here
from medley.look.screen import NOTHING, amount, duration, gib, print_json, screen
from models import weights
from models.catalog import load_catalog
from models.sources import HubSource
from models.specs import ModelSpec, Needs, VariantSpec

COLOURS = {"ready": "green", "scaled_to_zero": "green", "loading": "yellow", "draining": "yellow", "failed": "red"}
UNREACHABLE = 2

Json = Annotated[bool, typer.Option("--json", help="for programs")]


def models(as_json: Json = False) -> None:
    """The catalog beside what runs: needs, licence, whether the weights are here, state."""
    live = look_here()
    rows = [catalog_row(spec, live) for spec in load_catalog().values()]
    if as_json:
        print_json(rows)
        return
    screen().print(Group(catalog_table(rows), *_gaps(live)))


def status(as_json: Json = False) -> None:
    """How the cluster is, on one screen. Exit code 0: all is ready; 1: not all; 2: no cluster answers."""
    live = look_here()
    memory = memory_by_application(live)
    if as_json:
        print_json(status_document(live, memory))
    else:
        screen().print(status_screen(live, memory))
    if code := exit_code(live):
        raise typer.Exit(code)


def exit_code(live: Live) -> int:
    if not live.reachable:
        return UNREACHABLE
    found = statuses(live)
    everyone_answers = live.models is not None and bool(found)
    return 0 if everyone_answers and all(one.takes_requests for one in found) else 1


def memory_by_application(live: Live) -> dict[str, float]:
    """GiB (PSS) of each application's replicas on this machine, including the processes they started."""
    here = {process.pid: process for process in cluster.processes()}
    members = {app: [here[pid] for pid in live.pids(app) if pid in here] for app in live.applications}
    return {app: cluster.pss_gib([*_with_children(own)]) for app, own in members.items() if own}


def _with_children(processes: Iterable[psutil.Process]) -> Iterable[psutil.Process]:
    for process in processes:
        yield process
        try:
            yield from process.children(recursive=True)
        except psutil.Error:  # it has ended since
            continue


def weights_missing(spec: ModelSpec, variant: VariantSpec) -> str:
    """Why the weights are not on this machine; empty when they are. Downloads nothing."""
    try:
        if isinstance(spec.source, HubSource):
            _cached(spec.source)
        else:
            weights.locate(spec, variant)
    except weights.WeightsMissing as error:
        return str(error)
    return ""


def _cached(source: HubSource) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(source.repo, revision=source.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise weights.WeightsMissing(f"{source.repo} is not in this machine's cache of the hub.") from None


def catalog_row(spec: ModelSpec, live: Live) -> dict[str, Any]:
    """One model of the catalog and its state, for programs."""
    deployed = sorted(app for app in {**live.applications, **(live.models or {})} if app.partition("@")[0] == spec.id)
    served = [status_of(live, app) for app in deployed]
    # The one that goes by the model's own name; else the first of `model@variant`.
    now = next(iter(served), None)
    name = (now and now.variant) or spec.default_variant
    variant = spec.variants.get(name) or spec.variant(None)
    missing = weights_missing(spec, variant)
    return {
        "id": spec.id,
        "task": spec.task.name,
        "variants": list(spec.variants),
        "default_variant": spec.default_variant,
        "running_variant": now and now.variant,
        "running_variants": [one.variant for one in served if one.variant],
        "licence": spec.licence,
        "needs": variant.needs.model_dump(exclude_none=True),
        "weights_here": not missing,
        "weights_missing": missing or None,
        "state": now.state if now else "not_deployed" if live.reachable else None,
    }


def catalog_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for name in ("model", "task", "variants (* runs)", "licence", "a replica needs", "weights here", "state"):
        table.add_column(name)
    for row in rows:
        marked = [f"{name}*" if name in row["running_variants"] else name for name in row["variants"]]
        table.add_row(
            *(row["id"], row["task"], ", ".join(marked), row["licence"], needs_text(Needs(**row["needs"]))),
            "yes" if row["weights_here"] else "no",
            _coloured(row["state"]),
        )
    return table


def needs_text(needs: Needs) -> str:
    gpus = f"{amount(needs.gpus)} GPU, " if needs.gpus else ""
    return f"{amount(needs.cpus)} CPU, {gpus}{gib(needs.memory_gib)}"


def status_document(live: Live, memory: dict[str, float]) -> dict[str, Any]:
    """The whole of `medley status`, for programs."""
    found = statuses(live)
    return {
        "reachable": live.reachable,
        "ready": exit_code(live) == 0,
        "address": f"{live.edge}/v1",
        "gaps": live.gaps,
        "resources": {name: asdict(usage) for name, usage in live.usage.items()},
        "nodes": [asdict(node) for node in live.nodes],
        "applications": [asdict(one) | {"memory_gib": memory.get(one.app)} for one in found],
    }


def status_screen(live: Live, memory: dict[str, float]) -> RenderableType:
    if not live.reachable:
        start = Text("No cluster answers here. `medley up` starts one.", style="red")
        return Group(start, *_gaps(live))
    found = statuses(live)
    head = Text.assemble((f"{live.edge}/v1", "bold"), f"   {_how_many_ready(found)}")
    parts: list[RenderableType] = [head, _resources(live), _nodes(live.nodes), Text(), _applications(found, memory)]
    parts += [_failure(one) for one in found if one.cause and not one.takes_requests]
    parts += [Text(f"\n{one.app}: {one.shortage}", style="yellow") for one in found if one.shortage]
    parts += [Text(f"\n{one.app}: {one.reach}", style="yellow") for one in found if one.reach and one.reach.limited]
    return Group(*parts, *_gaps(live))


def _how_many_ready(found: list[ApplicationStatus]) -> str:
    models = [one for one in found if one.is_model]
    ready = sum(one.takes_requests for one in models)
    return f"{ready} of {len(models)} models take requests" if models else "no model is deployed"


def _resources(live: Live) -> Text:
    if not live.usage:
        return Text("reserved: unknown")
    units = {"CPU": "CPU", "GPU": "GPU", "memory": "GiB"}
    parts = [_of(live.usage[name], unit) for name, unit in units.items() if name in live.usage]
    return Text(f"reserved: {', '.join(parts)}")


def _of(usage: Usage, unit: str) -> str:
    return f"{amount(usage.used)} of {amount(usage.total)} {unit}"


def _nodes(nodes: tuple[Node, ...]) -> Text:
    lines = [
        f"node {node.name}: {'' if node.alive else 'DEAD, '}{amount(node.cpus)} CPU ({node.cpu_percent:.0f} % busy), "
        + (f"{amount(node.gpus)} GPU, " if node.gpus else "")
        + f"memory {_of(node.memory, 'GiB')} in use"
        for node in nodes
    ]
    return Text("\n".join(lines) or "nodes: unknown")


def _applications(found: list[ApplicationStatus], memory: dict[str, float]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for name in ("application", "state", "variant", "release", "replicas", "phase", "for", "memory"):
        table.add_column(name, justify="right" if name in ("for", "memory") else "left")
    for one in found:
        replicas = f"{one.replicas}/{NOTHING if one.wanted is None else one.wanted}"
        table.add_row(
            *(one.app, _coloured(one.state), one.variant or NOTHING, one.release or NOTHING, replicas),
            *(one.phase_text or NOTHING, duration(one.phase_s), gib(memory.get(one.app))),
        )
    return table


def _coloured(state: str | None) -> Text:
    return Text((state or NOTHING).replace("_", " "), style=COLOURS.get(state or "", ""))


def _failure(one: ApplicationStatus) -> Text:
    return Text(f"\n{one.app}: {one.cause}" + (f"\n  {one.remedy}" if one.remedy else ""), style="red")


def _gaps(live: Live) -> list[Text]:
    return [Text(gap, style="yellow") for gap in live.gaps.values()]
