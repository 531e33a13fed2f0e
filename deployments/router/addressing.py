"""Which application answers for the name of a model: `model`, or `model@variant`.

`model` is the application of that name, whatever variant the operator has it serve. Where there is none, it is the
catalog's default variant, and where that is not served either, the only one that is. `model@variant` is that variant,
in whichever application.
"""

from __future__ import annotations

from collections.abc import Mapping

from deployments.router.dispatch import ModelState, State
from models.catalog import Catalog
from models.specs import ModelSpec

States = Mapping[str, ModelState]


def application_of(spec: ModelSpec, states: States) -> str | None:
    """The application that answers for a model. None where no application does.

    Args:
        spec: as the catalog resolves the name of a request.
        states: of every application, by its name.
    """
    return _of_model(spec, states) if spec.id == spec.row else _of_variant(spec, states)


def _of_model(spec: ModelSpec, states: States) -> str | None:
    if spec.row in states and states[spec.row].state is not State.DRAINING:
        return spec.row
    staying = [name for name in applications_of(spec, states) if states[name].state is not State.DRAINING]
    if (default := f"{spec.row}@{spec.default_variant}") in staying:
        return default
    candidates = staying or applications_of(spec, states)
    return candidates[0] if len(candidates) == 1 else None


def _of_variant(spec: ModelSpec, states: States) -> str | None:
    """Of two applications that serve it, the one where a request is better off."""
    candidates = [name for name in (spec.id, spec.row) if name in states]
    serving = [name for name in candidates if name == spec.id or states[name].variant == spec.default_variant]
    return min(serving, key=lambda name: _readiness(states[name]), default=None)


def _readiness(state: ModelState) -> int:
    return 0 if state.takes_requests else 1 if state.state is State.LOADING else 2


def applications_of(spec: ModelSpec, states: States) -> list[str]:
    """Every application of the same row of the catalog."""
    return [name for name in states if name.partition("@")[0] == spec.row]


def names_of(application: str, catalog: Catalog, states: States) -> list[str]:
    """The names by which clients reach an application, the plain one first."""
    row, _, named = application.partition("@")
    variant = named or (states[application].variant if application in states else None)
    names = [row, *([f"{row}@{variant}"] if variant else [])]
    return [name for name in names if name in catalog and application_of(catalog[name], states) == application]
