"""The rules of the deployments of an application: limits, draining, replicas, scaling."""

from __future__ import annotations

from deployments.settings import ModelArgs
from medley.checks.entries import Application, Found
from medley.checks.policies import policy_problems
from medley.checks.yaml_lines import MISSING, KeyPath

COMPUTED = ("ray_actor_options", "placement_group_bundles")


def deployment_problems(application: Application, deadline_s: float) -> Found:
    """The rules that the deployments of an application break. A model has one, and so has the router.

    Args:
        deadline_s: how long a request may take.
    """
    role = application.role
    yield from _count(application)
    for index in application.deployments:
        path = ("deployments", index)
        name = application.get(*path, "name")
        if isinstance(name, str) and name != role:
            yield (*path, "name"), f"a {role} has no deployment {name!r}; its only one is {role}. Name it {role}."
        if role == "model":
            yield from _computed(application, path)
            yield from _limits(application, path)
        yield from _target(application, path)
        yield from _draining(application, path, deadline_s)
        yield from _replicas(application, (*path, "autoscaling_config"))
        yield from policy_problems(application, (*path, "autoscaling_config", "policy"))


def _count(application: Application) -> Found:
    role, entries = application.role, application.get("deployments")
    if role == "model" and (application.lacks("deployments") or entries in (None, [])):
        message = "deployments is missing, so Serve's defaults apply: 5 requests at a time and an unlimited queue."
        yield (), f"{message} Add one named model, as serve_config.yaml has."
    for index in application.deployments[1:]:
        yield ("deployments", index), f"a {role} has only one deployment, and this is another. Remove it."


def _computed(application: Application, path: KeyPath) -> Found:
    for key in COMPUTED:
        if application.get(*path, key) is not MISSING:
            message = "must not be here: it would replace everything that Medley computes from the catalog"
            remedy = "Remove it; a replica's needs are under `needs` in models/catalog."
            yield (*path, key), f"{message}, including the environment. {remedy}"


def _limits(application: Application, path: KeyPath) -> Found:
    if application.lacks(*path, "max_ongoing_requests"):
        message = "max_ongoing_requests is missing, and Serve's default of 5 keeps the engine from filling its batches."
        yield path, f"{message} Add it; serve_config.yaml has 256."
    if application.lacks(*path, "max_queued_requests"):
        message = "max_queued_requests is missing, and Serve's default is an unlimited queue: nothing is ever refused."
        yield path, f"{message} Add it; serve_config.yaml has 64."
    if application.number(*path, "max_queued_requests") == -1:
        message = "-1 is an unlimited queue: nothing is ever refused. Write how many requests may wait, such as 64."
        yield (*path, "max_queued_requests"), message


def _target(application: Application, path: KeyPath) -> Found:
    most = application.number(*path, "max_ongoing_requests")
    for target in (("target_ongoing_requests",), ("policy", "policy_kwargs", "target_ongoing_requests")):
        place = (*path, "autoscaling_config", *target)
        wanted = application.number(*place)
        if most and wanted and wanted > most:
            message = f"{wanted:g} is above max_ongoing_requests ({most:g}): replicas are full before more start."
            yield place, f"{message} Write at most {most:g}."


def _draining(application: Application, path: KeyPath, deadline_s: float) -> Found:
    place = (*path, "graceful_shutdown_timeout_s")
    given = application.number(*place)
    if given is not None and given < deadline_s:
        yield place, f"{given:g} is below {_cut(deadline_s)}"
    elif application.lacks(*place) and application.spec:
        built_in = _built_in_timeout_s(application)
        if built_in < deadline_s:
            message = f"graceful_shutdown_timeout_s is missing, and the builder's {built_in:g} is below"
            yield path, f"{message} {_cut(deadline_s)}"


def _cut(deadline_s: float) -> str:
    return (
        f"the router's deadline_s ({deadline_s:g}): a replica that is replaced would cut its requests. "
        f"Write at least {deadline_s:g}."
    )


def _built_in_timeout_s(application: Application) -> float:
    """What the builder sets where the file says nothing."""
    from deployments.model import build  # imports Ray

    assert application.spec
    built = build(ModelArgs(model=application.spec.id))._bound_deployment
    return built._deployment_config.graceful_shutdown_timeout_s


def _replicas(application: Application, path: KeyPath) -> Found:
    if not isinstance(application.get(*path), dict):
        return
    if application.number(*path[:-1], "num_replicas") is not None:
        message = "is a fixed number, and autoscaling_config changes the number. Remove one of the two."
        yield (*path[:-1], "num_replicas"), message
    least, most = application.number(*path, "min_replicas"), application.number(*path, "max_replicas")
    if most is None and application.lacks(*path, "max_replicas"):
        most = 1  # Serve's default
    if least is not None and most is not None and least > most:
        message = f"{least:g} is above max_replicas ({most:g}). Lower this one or raise that one."
        yield (*path, "min_replicas"), message
