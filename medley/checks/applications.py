"""The rules of one application of a serve config: what Medley asks of it beyond Ray Serve's schema."""

from __future__ import annotations

from deployments.settings import ModelArgs, RouterArgs
from medley.checks.deployments import deployment_problems
from medley.checks.entries import BUILDERS, Application, Found
from medley.checks.machine import Machine, shortfalls
from medley.checks.schema import schema_problems
from medley.checks.words import did_you_mean, nearest
from medley.yaml_lines import MISSING, Problem
from models.catalog import load_catalog

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
        yield ("import_path",), f"{given} is no builder of Medley's. {did_you_mean(given, BUILDERS)}"


def _model(application: Application) -> Found:
    model, name = application.get("args", "model"), application.get("name")
    if isinstance(model, str) and not application.spec:
        yield ("args", "model"), f"the model {model!r} does not exist. {did_you_mean(model, load_catalog())}"
    elif application.spec and isinstance(name, str) and name != model:
        yield ("name",), f"the application {name} serves {model}. Name it {model}, so that the router finds it."


def _variant(application: Application) -> Found:
    spec, variant = application.spec, application.get("args", "variant")
    if spec and isinstance(variant, str) and variant not in spec.variants:
        advice = did_you_mean(variant, spec.variants) if nearest(variant, spec.variants) else "Choose one of them."
        message = f"{spec.id} has no variant {variant!r}; it has {', '.join(spec.variants)}."
        yield ("args", "variant"), f"{message} {advice}"


def _route(application: Application) -> Found:
    route = application.get("route_prefix")
    if application.lacks("route_prefix"):
        yield (), "route_prefix is missing, and Serve's default is /, the router's. Add `route_prefix: null`."
    elif route is not None and route is not MISSING:
        message = "must be null: clients reach a model through the router. Write `route_prefix: null`."
        yield ("route_prefix",), message


def _replica_fits(application: Application, machine: Machine | None) -> Found:
    spec, variant = application.spec, application.get("args", "variant")
    variant = None if variant is MISSING else variant
    if machine is None or spec is None or not (variant is None or variant in spec.variants):
        return
    if missing := shortfalls(spec.variant(variant).needs, machine):
        message = f"impossible resources: one replica needs {missing}. Choose another variant, or another machine."
        yield ("args", "variant" if variant else "model"), message
