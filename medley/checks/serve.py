"""The rules of a serve config: Ray Serve's own, taken strictly, and Medley's."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from functools import cache
from pathlib import Path

from medley.checks.applications import application_problems
from medley.checks.catalog import problems_of_the_catalog
from medley.checks.entries import ROUTER_BUILDER, Application, Found, applications_of, deadline_of, promises_of
from medley.checks.machine import Machine
from medley.checks.schema import schema_problems
from medley.checks.words import did_you_mean, shown
from medley.checks.yaml_lines import MISSING, Document, KeyPath, Problem, is_number
from models.slo import Targets

# Messages of Ray's that a rule here replaces by one with the line and the remedy.
LEFT_TO_RULES = (
    "Found multiple configs for",
    "Found duplicate applications for",
    "is set in the config for application",
    "to min_replicas",
    "Manually setting num_replicas",
    "got disallowed keys",
    "must be str (got",
)
HIGHEST_PORT = 65535
# Serve's defaults of the times that a scaling up takes, and how long it shall take at most until it is ordered.
DEFAULT_TIMES_S = {"metrics_interval_s": 10.0, "look_back_period_s": 30.0, "upscale_delay_s": 30.0}
REACTION_S = 5.0
# What replicas report is a mean over some seconds already.
AVERAGED_S = 1.5
LABEL = re.compile("[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def serve_problems(document: Document, machine: Machine | None = None) -> list[Problem]:
    """Everything that is wrong with a serve config, or with the catalog that it names models of.

    Args:
        machine: also ask whether one replica of each model fits this machine.
    """
    from ray.serve.schema import ServeDeploySchema  # takes a second

    applications = applications_of(document)
    if not applications:
        document.meant.add(("applications",))
    found = schema_problems(document, (), ServeDeploySchema, left_to_rules=LEFT_TO_RULES)
    if catalog := problems_of_the_catalog():
        return found + catalog
    rules = [document.problem(path, message) for path, message in _rules(document, applications)]
    for application in applications:
        rules += application_problems(application, deadline_of(applications), machine)
    places = {(problem.line, problem.where) for problem in rules}
    doubts = [*_served_twice(applications), *_slow_scaling(applications)]
    warnings = [document.problem(path, message, stops=False) for path, message in doubts]
    return [problem for problem in found if (problem.line, problem.where) not in places] + rules + warnings


def _rules(document: Document, applications: list[Application]) -> Found:
    """What is wrong with the document as a whole."""
    if not applications:
        yield ("applications",), "this file names no applications; serve_config.yaml shows an example."
        return
    yield from _names(applications)
    yield from _routers(applications)
    yield from _ports(document)
    yield from _host(document)
    yield from _timeout(document, applications)
    yield from _waits(applications)
    yield from _environment(document, ("controller_options", "runtime_env"))
    for application in applications:
        yield from _environment(document, (*application.path, "runtime_env"))


def _names(applications: list[Application]) -> Found:
    first: dict[str, int] = {}
    for application in applications:
        name = application.get("name")
        if not isinstance(name, str):
            continue
        line = application.document.line((*application.path, "name"))
        if name in first:
            yield (*application.path, "name"), f"line {first[name]} already names an application {name}. Keep one."
        first.setdefault(name, line)


def _served_twice(applications: list[Application]) -> Found:
    """A variant under its model's name and its own: for a while on the way from one name to the other, else a waste."""
    models = {one.spec.id: one for one in applications if one.spec}
    for name, application in models.items():
        row, at, variant = name.partition("@")
        plain = models.get(row)
        if at and plain and plain.variant == variant:
            line = application.document.line((*plain.path, "name"))
            message = f"warning: {row} (line {line}) also serves the variant {variant}, so it is loaded twice."
            yield (*application.path, "name"), f"{message} Requests for {name} would reach {row} without this one."


def _slow_scaling(applications: list[Application]) -> Found:
    """Replicas that are ordered late. What is not written is Serve's default."""
    for application in applications:
        for index in application.deployments:
            path = ("deployments", index, "autoscaling_config")
            if application.role != "model" or (application.number(*path, "max_replicas") or 1) < 2:
                continue
            written = {key: application.number(*path, key) for key in DEFAULT_TIMES_S}
            interval_s, look_back_s, delay_s = (
                DEFAULT_TIMES_S | {k: v for k, v in written.items() if v is not None}
            ).values()
            seconds = interval_s + look_back_s / 2 + delay_s + AVERAGED_S
            if seconds > REACTION_S:
                message = f"warning: another replica is ordered about {seconds:g} s after it is needed, by"
                message += " metrics_interval_s, half of look_back_period_s, and upscale_delay_s. Write 0.5, 1 and 1."
                yield (*application.path, *path), message


def _routers(applications: list[Application]) -> Found:
    """There is one router, it has the route /, and host and port are not an application's."""
    routers = [one for one in applications if one.role == "router"]
    if not routers:
        message = f"there is no router ({ROUTER_BUILDER}), so nothing answers clients."
        yield ("applications",), f"{message} Copy the one from serve_config.yaml."
    for second in routers[1:]:
        yield (
            second.path,
            "this is a second router, and there is one endpoint. Remove one.",
        )
    for router in routers[:1]:
        if router.get("route_prefix") not in ("/", MISSING):
            yield (*router.path, "route_prefix"), f"must be /, but is {shown(router.get('route_prefix'))}."
    for application in applications:
        for key in ("host", "port"):
            if application.get(key) is not MISSING:
                yield (*application.path, key), f"belongs under http_options, once for all. Write http_options.{key}."


def _ports(document: Document) -> Found:
    for path in (("http_options", "port"), ("grpc_options", "port")):
        port = document.at(path)
        if is_number(port) and not 0 < port <= HIGHEST_PORT:
            yield path, f"{port} is not a port number. Write one from 1 to {HIGHEST_PORT}, such as 8000."


def _host(document: Document) -> Found:
    path = ("http_options", "host")
    host = document.at(path)
    if isinstance(host, str) and not is_host(host):
        message = f"{shown(host)} is neither an IP address nor the name of a host. Write one of the two alone, without"
        yield path, f"{message} http://, port or path, such as 127.0.0.1."


def is_host(text: str) -> bool:
    """An IP address or a host's name (RFC 1123). Digits in the last part are an address, and then it must be a right
    one (WHATWG URL, 3.5)."""
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        parts = text.split(".")
        return len(text) <= 253 and all(LABEL.fullmatch(part) for part in parts) and not parts[-1].isdecimal()


def _timeout(document: Document, applications: list[Application]) -> Found:
    path = ("http_options", "request_timeout_s")
    timeout, deadline_s = document.at(path), deadline_of(applications)
    if is_number(timeout) and timeout <= deadline_s:
        message = f"{timeout:g} is not above the router's deadline_s ({deadline_s:g}): a late request would get Serve's"
        yield path, f"{message} error, which is not in OpenAI's form. Write more than {deadline_s:g}."


def _waits(applications: list[Application]) -> Found:
    """A policy whose allowed wait is as long as the promise adds replicas too late."""
    promises = promises_of(applications)
    path = ("autoscaling_config", "policy", "policy_kwargs", "wait_s")
    for application in applications:
        spec = application.spec
        if promises is None or spec is None or promises.of_task(spec.task) is None:
            continue
        limit = _limit_s(promises.of_model(spec.row))
        for index in application.deployments:
            wait = application.number("deployments", index, *path)
            if wait is not None and limit is not None and wait >= limit:
                message = f"{wait:g} s is not below the {limit:g} s that slo.yaml promises: replicas come too late."
                yield (*application.path, "deployments", index, *path), f"{message} Write at most {limit / 2:g}."


def _limit_s(targets: Targets) -> float | None:
    """The promised seconds until an answer begins, or until its end where it does not come in pieces."""
    return targets.time_to_first_token_s or targets.time_to_first_audio_s or targets.duration_s


def _environment(document: Document, path: KeyPath) -> Found:
    """Variables of Serve that it would not read or would refuse. Variables of other programs are not checked."""
    runtime_env = document.at(path)
    for key in runtime_env if isinstance(runtime_env, dict) else ():
        if key not in (known := _runtime_env_keys(path)):
            yield (*path, key), f"there is no such setting. {did_you_mean(str(key), known)}"
    variables = document.at((*path, "env_vars"))
    for name, value in variables.items() if isinstance(variables, dict) else ():
        if str(name).startswith("RAY_SERVE_") and name not in serve_variables():
            message = f"Ray Serve reads no such variable. {did_you_mean(name, serve_variables())}"
            yield (*path, "env_vars", name), message
        if not isinstance(value, str):
            yield (*path, "env_vars", name), f'must be text, but is {shown(value)}. Write "{shown(value)}" in quotes.'


def _runtime_env_keys(path: KeyPath) -> list[str]:
    from ray.runtime_env import RuntimeEnv

    return ["env_vars"] if path[0] == "controller_options" else sorted(RuntimeEnv.known_fields)


@cache
def serve_variables() -> frozenset[str]:
    """Every RAY_SERVE_* variable that Ray's source reads: it has no list of them, only string constants."""
    ray = importlib.util.find_spec("ray")
    assert ray
    assert ray.submodule_search_locations
    names: set[str] = set()
    for part in ("serve", "llm"):
        for file in Path(ray.submodule_search_locations[0], part).rglob("*.py"):
            names |= set(re.findall(r"[\"'](RAY_SERVE_[A-Z0-9_]+)[\"']", file.read_text()))
    return frozenset(names)
