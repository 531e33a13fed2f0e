"""Whether a replica fits what is free, and what could make room for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from deployments.telemetry import IN_FLIGHT, REQUESTS
from medley.look.application_status import is_model, model_args
from medley.look.diagnosis.patient import Finding, Patient, fine, wrong
from medley.look.live import Usage, replicas_of
from medley.look.logs import last_call
from medley.look.screen import ago, amount
from medley.look.status import needs_text
from models.specs import Needs

UNITS = {"CPU": "CPU", "GPU": "GPU", "memory": "GiB"}
MOST_NAMED = 3
NOBODY_HAS = Usage(0, 0)


def amounts(needs: Needs) -> dict[str, float]:
    """What Ray reserves for one replica, in CPUs, GPUs and GiB. Each further worker of an engine takes a CPU."""
    return {"CPU": needs.cpus + needs.workers - 1, "GPU": needs.gpus, "memory": needs.memory_gib}


def short_of(needed: Mapping[str, float], available: Mapping[str, float]) -> list[str]:
    return [name for name, value in needed.items() if value > available.get(name, 0) + 1e-6]


def fits(patient: Patient) -> Finding:
    needs = patient.variant.needs
    if not [one for one in patient.starting if not one.get("pid")]:
        return fine(f"No replica waits for room. Each takes {needs_text(needs)}.")
    usage = patient.live.usage
    if not usage:
        return fine(f"A replica waits for a place; it needs {needs_text(needs)}. What is free is not known.")
    needed = amounts(needs)
    short = short_of(needed, {name: one.free for name, one in usage.items()})
    if not short:
        one_node = "" if len(patient.live.nodes) < 2 else " It has to be free on one node."
        return fine(f"A replica needs {needs_text(needs)}, and that is free in the cluster.{one_node}")
    finding = "\n".join(f"One replica {_shortage(name, needed[name], usage)}" for name in short)
    if patient.running:
        finding += f"\nMeanwhile {len(patient.running)} of its replicas serve."
    if impossible := short_of(needed, {name: one.total for name, one in usage.items()}):
        names = ", ".join(impossible)
        return wrong("\n".join([finding, f"The whole cluster is too small ({names}).", *_variants(patient)]), TOO_SMALL)
    return wrong("\n".join([finding, *_could_leave(patient, needed), *_variants(patient)]), NO_ROOM)


TOO_SMALL = "choose another variant, or add a machine to the cluster"
NO_ROOM = "take a model out of serve_config.yaml, or choose another variant, then `medley deploy`"


def _shortage(name: str, needed: float, usage: Mapping[str, Usage]) -> str:
    unit, has = UNITS[name], usage.get(name, NOBODY_HAS)
    figure = "{:.1f}".format if name == "memory" else amount
    what = " of memory" if name == "memory" else ""
    return f"needs {figure(needed)} {unit}{what}, {figure(max(0.0, has.free))} {unit} are free of {figure(has.total)}."


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that holds something a replica waits for."""

    app: str
    holds: dict[str, float]
    enough: bool
    use: str


def candidates(patient: Patient, needed: Mapping[str, float]) -> list[Candidate]:
    """Other models with replicas, those first that would make room alone."""
    found = []
    for app, application in patient.live.applications.items():
        args = model_args(application) if is_model(application) and app != patient.model else None
        replicas = sum(bool(one.get("pid")) for one in replicas_of(application))
        if args is None or not replicas:
            continue
        holds = {name: value * replicas for name, value in amounts(args.variant_spec.needs).items()}
        freed = {name: one.free + holds.get(name, 0) for name, one in patient.live.usage.items()}
        found.append(Candidate(app, holds, not short_of(needed, freed), last_use(patient, app)))
    return sorted(found, key=lambda one: not one.enough)


def last_use(patient: Patient, app: str) -> str:
    """How long ago it was asked for something, as far as that is known. Empty when it is not."""
    if in_flight := patient.metrics.gauge(IN_FLIGHT, model=app):
        return f"{in_flight:.0f} requests are in flight"
    if called := last_call(app, patient.logs):
        return f"last call {ago(called, patient.live.now)}"
    counted = patient.metrics.samples(REQUESTS.series)
    if counted and not any(labels.get("model") == app and value for labels, value in counted):
        return "no request since the router started"
    return ""


def _could_leave(patient: Patient, needed: Mapping[str, float]) -> Iterator[str]:
    for one in candidates(patient, needed)[:MOST_NAMED]:
        held = ", ".join(f"{amount(value)} {UNITS[name]}" for name, value in one.holds.items() if value)
        use = f"; {one.use}" if one.use else ""
        effect = "would make room" if one.enough else "would not be enough"
        yield f"Taking out {one.app} ({held}{use}) {effect}."


def _variants(patient: Patient) -> Iterator[str]:
    """Other variants that would fit now."""
    free = {name: one.free for name, one in patient.live.usage.items()}
    for name, variant in patient.spec.variants.items():
        if variant != patient.variant and not short_of(amounts(variant.needs), free):
            yield f"Its variant {name} would fit: it needs {needs_text(variant.needs)}."
