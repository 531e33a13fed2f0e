"""What a deploy would do to each application, and whether its clients would notice."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.router.addressing import application_of
from deployments.router.dispatch import ModelState, State
from deployments.router.reach import Reach, reach
from medley.change.differences import Comparison, Difference, Kind, compare
from medley.change.effects import FINISH, effect_of
from medley.change.surge import SURGE, Resources, Room, with_surge
from medley.checks.config import ClusterConfig
from models.catalog import load_catalog

# Read when Serve first starts and never again. The other keys of a document take effect with each deploy.
FIRST_START_KEYS = ("proxy_location", "http_options", "grpc_options", "controller_options")
# What replicas told of their pace, by model and variant; see PACE in deployments/board.py.
Paces = Mapping[tuple[str, str], Mapping[str, Any]]
SIGNS = {Kind.ADD: "+", Kind.REMOVE: "-", Kind.UNCHANGED: " ", Kind.IN_PLACE: "~", Kind.RESTART: "!"}


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one application.

    Attributes:
        differences: the keys that cause it; those that restart replicas come first.
        effect: what that means for clients, in a sentence.
        interrupts: its requests wait or fail, during the change or from then on.
    """

    app: str
    kind: Kind
    differences: tuple[Difference, ...] = ()
    effect: str = ""
    interrupts: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Attributes:
        document: what to hand to Serve: the file, with `max_surge_percent` decided where it does not say it.
        changes: one for each application.
        warnings: what the file asks for and a deploy cannot do, or what is probably a mistake.
        choices: of variants, by application: which was chosen, and why.
        reaches: by application, up to which size it will keep its promise alone, where that is not all.
    """

    document: dict[str, Any]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    reaches: Mapping[str, Reach] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return all(change.kind is Kind.UNCHANGED for change in self.changes)

    @property
    def interrupts(self) -> bool:
        return any(change.interrupts for change in self.changes)

    def apps(self, *kinds: Kind) -> set[str]:
        return {change.app for change in self.changes if change.kind in kinds}

    def lines(self) -> list[str]:
        """The plan for people to read."""
        width = max((len(change.app) for change in self.changes), default=0)
        lines = []
        for change in self.changes:
            keys = ": " + ", ".join(map(str, change.differences)) if change.differences else _reason(change)
            lines.append(f"  {SIGNS[change.kind]} {change.app:<{width}}  {change.kind}{keys}")
            reach = f"It {self.reaches[change.app]}." if change.app in self.reaches else None
            for text in (self.choices.get(change.app), change.effect, reach):
                if text:
                    lines.append(f"    {'':<{width}}  {text}")
        return lines + [f"  Warning: {warning}" for warning in self.warnings]


def _reason(change: Change) -> str:
    """Why replicas are replaced although no key differs, after a colon."""
    return ": its deployments stand in another order" if change.kind is Kind.RESTART else ""


def plan(
    live: dict[str, Any],
    wanted: ClusterConfig,
    free: Resources | None,
    *,
    cold_starts: Mapping[str, float] | None = None,
    started_with: dict[str, Any] | None = None,
    last_good: dict[str, Any] | None = None,
    paces: Paces | None = None,
) -> Plan:
    """What a deploy of `wanted` does.

    Args:
        live: Serve's answer to `GET /api/serve/applications/`.
        free: what is free in the cluster; None when Ray did not say.
        cold_starts: seconds that the last start of an application took, by its name.
        started_with: the document Serve was started with. Only it knows the `controller_options` in force.
        last_good: the last document that went live. What survives a failed upgrade is of its version.
        paces: of the variants that have run on this cluster.

    Raises:
        ConfigError: Serve would refuse the document.
    """
    document, rooms = with_surge(wanted, live, free)
    applications, good, asked = live.get("applications", {}), _entries_in(last_good), _entries_in(wanted.document)
    changes = []
    comparisons = compare(live, document)
    serving = {one.app for one in comparisons if one.kind in (Kind.UNCHANGED, Kind.IN_PLACE)}
    for comparison in comparisons:
        app, room = comparison.app, rooms.get(comparison.app)
        survives = app in good and good[app] == asked.get(app)
        effect, interrupts = effect_of(
            comparison.kind, applications.get(app, {}), room, (cold_starts or {}).get(app), survives
        )
        if comparison.kind is Kind.REMOVE and (heir := _heir(app, wanted)):
            when = "" if heir in serving else ", once that is up with it; until then they wait or get 503"
            effect, interrupts = f"{FINISH} new requests for {app} reach {heir}{when}.", heir not in serving
        differences = _without_decided(comparison, room)
        changes.append(Change(app, comparison.kind, differences, effect, interrupts))
    warnings = [*_first_start_warnings(live, document, started_with), *_served_twice(wanted)]
    return Plan(document, tuple(changes), tuple(warnings), wanted.choices, _reaches(wanted, paces or {}))


def paces_in(models: Mapping[str, Mapping[str, Any]] | None) -> Paces:
    """The paces in the router's answer to /readyz."""
    catalog = load_catalog()
    return {
        (catalog[app].row, variant): pace
        for app, told in (models or {}).items()
        for variant, pace in (told.get("pace") or {}).items()
        if app in catalog
    }


def _reaches(wanted: ClusterConfig, paces: Paces) -> dict[str, Reach]:
    promises = wanted.promises
    if promises is None:
        return {}
    promised = [one for one in wanted.models if promises.of_task(one.spec.task)]
    found = {
        one.app: reach(paces.get((one.spec.row, one.variant_name)), promises.of_model(one.spec.id)) for one in promised
    }
    return {app: one for app, one in found.items() if one and one.limited}


def _heir(app: str, wanted: ClusterConfig) -> str | None:
    """The application that answers to the name of one that is taken out."""
    states = {model.app: ModelState(State.READY, model.variant_name) for model in wanted.models}
    spec = load_catalog().get(app)
    return application_of(spec, states) if spec else None


def _without_decided(comparison: Comparison, room: Room | None) -> tuple[Difference, ...]:
    """The differences that the file asks for, without a `max_surge_percent` that was decided here."""
    decided = room is not None and not room.stated
    return tuple(one for one in comparison.differences if not (decided and one.path[-1] == SURGE))


def _entries_in(document: dict[str, Any] | None) -> dict[str, Any]:
    return {entry["name"]: entry for entry in (document or {}).get("applications", [])}


def _first_start_warnings(
    live: dict[str, Any], document: dict[str, Any], started_with: dict[str, Any] | None
) -> list[str]:
    if not live.get("controller_info"):
        return []  # Serve does not run yet: it will read them
    in_force, asked = _first_start_options(live), _first_start_options(document)
    # Serve's answer does not have them.
    in_force["controller_options"] = _first_start_options(started_with or document)["controller_options"]
    return [
        f"{key} differ{'s' if key == 'proxy_location' else ''} from what Serve started with "
        f"({_which(in_force[key], asked[key])}). It needs `medley down` and `medley up`."
        for key in FIRST_START_KEYS
        if in_force[key] != asked[key]
    ]


def _served_twice(wanted: ClusterConfig) -> list[str]:
    """Variants that are served twice: under the model's name and under their own."""
    apps = {model.app for model in wanted.models}
    both = [(one.app, f"{one.app}@{one.variant_name}") for one in wanted.models if one.app == one.spec.row]
    return [f"{app} and {named} serve the same variant, so it is loaded twice." for app, named in both if named in apps]


def _first_start_options(source: dict[str, Any]) -> dict[str, Any]:
    from ray.serve.schema import ServeDeploySchema

    stated = {key: copy.deepcopy(source[key]) for key in FIRST_START_KEYS if source.get(key) is not None}
    schema = ServeDeploySchema.model_validate({**stated, "applications": []})
    return schema.model_dump(mode="json", include=set(FIRST_START_KEYS))


def _which(old: Any, new: Any) -> str:
    """The keys that differ. No values, because they may hold secrets."""
    if isinstance(old, dict) and isinstance(new, dict):
        return ", ".join(key for key in {**old, **new} if old.get(key) != new.get(key))
    return f"{old} -> {new}" if isinstance(old, str) and isinstance(new, str) else "set on one side only"
