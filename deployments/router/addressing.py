"""Finds the application that serves a model's name: `model` or `model@variant`.

`model` means the application of that name, whatever variant it serves. If there is none, it means the catalog's default
variant, and if that is not served either, the only variant that is. `model@variant` means that variant, in whichever
application serves it.
"""

from __future__ import annotations

from collections.abc import Mapping

from deployments.router.dispatch import ModelState, State
from models.catalog import Catalog
from models.specs import ModelSpec

States = Mapping[str, ModelState]


def application_of(spec: ModelSpec, states: States) -> str | None:
    """The application that serves a model, or None.

    Args:
        spec: the model that the catalog has for the name in a request.
        states: the state of every application, by name.
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
    """The best of several applications that serve the variant."""
    candidates = [name for name in (spec.id, spec.row) if name in states]
    serving = [name for name in candidates if name == spec.id or states[name].variant == spec.default_variant]
    return min(serving, key=lambda name: _readiness(states[name]), default=None)


def _readiness(state: ModelState) -> int:
    return 0 if state.takes_requests else 1 if state.state is State.LOADING else 2


def applications_of(spec: ModelSpec, states: States) -> list[str]:
    """All applications that serve the same row of the catalog."""
    return [name for name in states if name.partition("@")[0] == spec.row]


def names_of(application: str, catalog: Catalog, states: States) -> list[str]:
    """The names by which clients reach an application, with `model` before `model@variant`."""
    row, _, named = application.partition("@")
    variant = named or (states[application].variant if application in states else None)
    names = [row, *([f"{row}@{variant}"] if variant else [])]
    return [name for name in names if name in catalog and application_of(catalog[name], states) == application]
