"""The rules of one application of a serve config: what Medley asks of it beyond Ray Serve's schema."""

from __future__ import annotations

from deployments.settings import AUTO, ModelArgs, RouterArgs
from medley.checks.deployments import deployment_problems
from medley.checks.entries import BUILDERS, Application, Found
from medley.checks.machine import Machine, shortfalls
from medley.checks.schema import schema_problems
from medley.checks.words import did_you_mean, nearest, shown
from medley.checks.yaml_lines import MISSING, Problem
from models.catalog import load_catalog
from models.specs import ModelSpec

ARGUMENTS = {"model": ModelArgs, "router": RouterArgs}


def application_problems(application: Application, deadline_s: float, machine: Machine | None) -> list[Problem]:
    """Every rule this application breaks.

    Args:
        deadline_s: how long a request may take.
        machine: also ask whether one replica fits this machine.
    """
    found = list(_builder(application))
    if application.role == "model":
        found += _model(application)
        found += _variant(application)
        found += _route(application)
        found += _replica_fits(application, machine)
    if application.role:
        found += deployment_problems(application, deadline_s)
    problems = [application.document.problem((*application.path, *path), text) for path, text in found]
    return _arguments(application) + problems


def _arguments(application: Application) -> list[Problem]:
    """Unknown and wrong arguments of the builder. Whether the model and the variant exist is asked below."""
    kind = ARGUMENTS.get(application.role or "")
    if kind is None or not (application.lacks("args") or isinstance(application.get("args"), dict)):
        return []
    return schema_problems(application.document, (*application.path, "args"), kind, whole=kind is not ModelArgs)


def _builder(application: Application) -> Found:
    given = application.get("import_path")
    if isinstance(given, str) and given not in BUILDERS:
        yield ("import_path",), f"{given} is not a builder of Medley's. {did_you_mean(given, BUILDERS)}"


def _model(application: Application) -> Found:
    model, name = application.get("args", "model"), application.get("name")
    if isinstance(model, str) and not application.spec:
        yield ("args", "model"), _no_such_model(model)
    elif application.spec and isinstance(name, str) and name != model:
        yield ("name",), f"the application {name} serves {model}. Name it {model}, so that the router finds it."


def _no_such_model(name: str) -> str:
    """What is wrong with the name of a model, or with the variant in it."""
    row, at, variant = name.partition("@")
    spec = load_catalog().get(row)
    if spec and variant == AUTO:
        return (
            f"{name} would be another variant on another machine. Write `model: {row}` and `variant: auto`, "
            "and name the application so."
        )
    if spec:
        return _no_such_variant(spec, variant, prefix=f"{row}@")
    near = [f"{one}@{variant}" if at and variant in load_catalog()[one].variants else one for one in load_catalog()]
    return f"the model {name!r} does not exist. {did_you_mean(name, near)}"


def _variant(application: Application) -> Found:
    """The variant exists and does not contradict `model@variant`. Every model has `auto`."""
    spec, variant, model = application.spec, application.get("args", "variant"), application.get("args", "model")
    if not spec or not isinstance(variant, str):
        return
    if spec.id != spec.row and variant != spec.default_variant:
        message = f"{model} is the variant {spec.default_variant}, not {shown(variant)}. Remove this."
        yield ("args", "variant"), message
    elif variant != AUTO and variant not in spec.variants:
        yield ("args", "variant"), _no_such_variant(spec, variant)


def _no_such_variant(spec: ModelSpec, variant: str, prefix: str = "") -> str:
    advice = "Choose one of them."
    if near := nearest(variant, spec.variants):
        advice = f"Did you mean {' or '.join(f'{prefix}{one}' for one in near)}?"
    return f"{spec.row} has no variant {variant!r}; it has {', '.join(spec.variants)}. {advice}"


def _route(application: Application) -> Found:
    route = application.get("route_prefix")
    if application.lacks("route_prefix"):
        yield (), "route_prefix is missing, and Serve's default is /, the router's. Add `route_prefix: null`."
    elif route is not None and route is not MISSING:
        message = "must be null: clients reach a model through the router. Write `route_prefix: null`."
        yield ("route_prefix",), message


def _replica_fits(application: Application, machine: Machine | None) -> Found:
    spec, given = application.spec, application.get("args", "variant")
    if machine is None or spec is None:
        return
    name = ModelArgs(model=spec.id, variant=AUTO).variant_name if application.is_auto else application.variant
    if name and (missing := shortfalls(spec.variant(name).needs, machine)):
        message = f"impossible resources: one replica needs {missing}. Choose another variant, or another machine."
        yield ("args", "model" if given in (None, MISSING) else "variant"), message
