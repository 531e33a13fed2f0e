"""Follow a deploy from the moment Serve accepts it until every application is ready or one has failed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from deployments.settings import ModelArgs
from medley.change.differences import Kind, compare
from medley.change.plan import Plan
from medley.change.serve_rest import Readiness, read_live, read_readiness
from medley.checks.entries import MODEL_BUILDER
from medley.local.cluster import ClusterError, logs

POLL_S = 0.5
ROUTER_LAG_S = 1.5  # the router asks Serve once a second
TAKES_REQUESTS = ("ready", "scaled_to_zero")


class DeployFailed(ClusterError):
    """Serve took the document, and not every application became ready; the message says which and why."""


class Word(StrEnum):
    """Where one application stands."""

    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Step:
    """Where an application stands; `detail` is the phase of its start, such as "compile 40 %"."""

    word: Word
    detail: str = ""


class Rollout:
    """
    Attributes:
        cold_starts: seconds from the creation of a new replica until it ran, for each application that got one.
    """

    def __init__(self, plan: Plan, before: dict[str, Any]):
        self.document = plan.document
        self.wanted = [entry["name"] for entry in plan.document["applications"]]
        models = [one for one in plan.document["applications"] if one["import_path"] == MODEL_BUILDER]
        self.models = {one["name"]: ModelArgs.model_validate(one["args"]).variant_name for one in models}
        self.removed = plan.apps(Kind.REMOVE)
        self.restarting = plan.apps(Kind.RESTART)
        self.untouched = plan.apps(Kind.UNCHANGED)
        self.old_replicas = {
            replica["replica_id"]
            for application in before.get("applications", {}).values()
            for replica in _replicas(application)
        }
        self.served_before = {
            name for name, one in before.get("applications", {}).items() if _running(one, self.old_replicas)
        }
        self.cold_starts: dict[str, float] = {}

    def follow(self, serve: httpx.Client, edge: httpx.Client, patience_s: float) -> Iterator[dict[str, Step]]:
        """Poll the steps of all applications until all are ready and removed ones are gone.

        Raises:
            DeployFailed: one failed for good, or patience ran out.
            ClusterError: another writer deployed something else meanwhile.
        """
        deadline = time.monotonic() + patience_s
        live: dict[str, Any] = {}
        steps = dict.fromkeys(self.wanted, Step(Word.WAITING))
        while True:
            readiness = read_readiness(edge)
            with contextlib.suppress(httpx.HTTPError, ValueError):
                live = read_live(serve)
                self._note_cold_starts(live)
                steps = self._steps(live, readiness)
            yield steps
            if live and any(one.kind is not Kind.UNCHANGED for one in compare(live, self.document)):
                raise ClusterError(
                    "Another writer deployed something else meanwhile. `medley plan` shows what differs."
                )
            words = {step.word for step in steps.values()}
            if words <= {Word.READY, Word.FAILED}:
                if Word.FAILED in words:
                    time.sleep(ROUTER_LAG_S)
                    raise DeployFailed(self._failure(steps, live, read_readiness(edge)))
                if self._router_knows(readiness):
                    return
            if time.monotonic() > deadline:
                raise DeployFailed(self._out_of_patience(steps, live, readiness, patience_s))
            time.sleep(POLL_S)

    def _steps(self, live: dict[str, Any], readiness: Readiness) -> dict[str, Step]:
        applications = live.get("applications", {})
        steps = {name: self._step(name, applications.get(name), readiness.of(name)) for name in self.wanted}
        return steps | {name: Step(Word.LEAVING) for name in sorted(self.removed) if name in applications}

    def _step(self, name: str, application: dict[str, Any] | None, model: dict[str, Any]) -> Step:
        if application is None:
            return Step(Word.WAITING)
        status = application.get("status")
        # An unhealthy one that this deploy does not touch may recover; Serve replaces its replicas.
        if status == "DEPLOY_FAILED" or (status == "UNHEALTHY" and name not in self.untouched):
            return Step(Word.FAILED)
        if status == "RUNNING" and all(self._is_new(name, one) for one in application["deployments"].values()):
            return Step(Word.READY)
        return Step(Word.LOADING, _phase(model))

    def _is_new(self, name: str, deployment: dict[str, Any]) -> bool:
        """Whether all replicas run the version asked for.

        Serve says HEALTHY exactly then: a deploy sets it to UPDATING until no replica is of another version, starts or
        stops. But an autoscaler that acts meanwhile turns UPDATING to UPSCALING, and the application to RUNNING.
        """
        if deployment.get("status") == "HEALTHY":
            return True
        active = [one for one in deployment.get("replicas", []) if one["state"] != "STOPPING"]
        old = [one for one in active if one["replica_id"] in self.old_replicas]
        if name in self.restarting:
            return not old and any(one["state"] == "RUNNING" for one in active)
        return all(one["state"] == "RUNNING" for one in old)

    def _router_knows(self, readiness: Readiness) -> bool:
        """Whether the router knows what Serve says. It asks Serve once a second."""
        known = (readiness.models or {}).keys()
        there = all(name in known and self._serves_variant(name, readiness) for name in self.models)
        return readiness.ready and there and not self.removed & known

    def _serves_variant(self, model: str, readiness: Readiness) -> bool:
        """Whether requests that name the variant reach this application."""
        return readiness.of(model).get("variant") in (None, self.models[model])

    def _is_ready(self, model: str, readiness: Readiness) -> bool:
        return readiness.of(model).get("state") in TAKES_REQUESTS and self._serves_variant(model, readiness)

    def _note_cold_starts(self, live: dict[str, Any]) -> None:
        for name, application in live.get("applications", {}).items():
            for replica in _replicas(application):
                if (
                    name not in self.cold_starts
                    and replica["state"] == "RUNNING"
                    and replica["replica_id"] not in self.old_replicas
                    and replica.get("start_time_s")
                ):
                    self.cold_starts[name] = time.time() - replica["start_time_s"]

    def _failure(self, steps: dict[str, Step], live: dict[str, Any], readiness: Readiness) -> str:
        failed = [name for name, step in steps.items() if step.word is Word.FAILED]
        parts = [self._failure_of(name, live["applications"][name], readiness.of(name)) for name in failed]
        others = [name for name in steps if name not in failed]
        if others:
            parts.append(f"The others are ready: {', '.join(others)}.")
        return "\n".join([*parts, f"Logs: {logs()}"])

    def _failure_of(self, name: str, application: dict[str, Any], model: dict[str, Any]) -> str:
        when = " (it had failed before, and this deploy does not change it)" if name in self.untouched else ""
        cause = [f"{name} failed{when}: {model.get('cause') or serves_message(application)}", model.get("remedy", "")]
        return "\n".join(part for part in [*cause, self._what_serves(name, application)] if part)

    def _what_serves(self, name: str, application: dict[str, Any]) -> str:
        if not application.get("deployments"):  # Serve could not build it, and has not touched its replicas
            return f"The replicas that {name} had were not stopped." if name in self.served_before else ""
        if running := _running(application, self.old_replicas):
            return f"{running} of its old replicas still serve{'s' if running == 1 else ''}."
        return f"No replica of {name} serves now." if not _running(application) else ""

    def _out_of_patience(
        self, steps: dict[str, Step], live: dict[str, Any], readiness: Readiness, patience_s: float
    ) -> str:
        if not live:
            return f"Ray's dashboard did not answer for {patience_s:.0f} s. `medley up` starts the cluster."
        late = {name: step for name, step in steps.items() if step.word is not Word.READY}
        if not late:
            unready = [name for name in sorted(self.models) if not self._is_ready(name, readiness)]
            of_whom = f", because of {', '.join(unready)}" if unready else ""
            return f"Serve says all is ready, and /readyz does not{of_whom}, after {patience_s:.0f} s. Logs: {logs()}"
        parts = [f"Not ready after {patience_s:.0f} s, and Serve goes on trying:"]
        for name, step in late.items():
            application = live.get("applications", {}).get(name, {})
            why = readiness.of(name).get("cause") or serves_message(application)
            doing = f"{step.word}, {step.detail}" if step.detail else step.word
            lines = [f"{name}: {doing}.", why, readiness.of(name).get("remedy", "")]
            lines.append(self._what_serves(name, application) if name in self.served_before else "")
            parts.append(" ".join(line for line in lines if line))
        return "\n".join([*parts, f"Logs: {logs()}"])


def serves_message(application: dict[str, Any]) -> str:
    """What Serve says of an application: the longest of its messages is the one with the exception."""
    messages = [application.get("message", "")]
    messages += [one.get("message", "") for one in application.get("deployments", {}).values()]
    return max(messages, key=len)[-1500:]


def _phase(model: dict[str, Any]) -> str:
    phase = str(model.get("phase", "")).replace("_", " ")
    return f"{phase} {model['fraction']:.0%}" if phase and model.get("fraction") is not None else phase


def _replicas(application: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for deployment in application.get("deployments", {}).values() for one in deployment.get("replicas", [])]


def _running(application: dict[str, Any], among: set[str] | None = None) -> int:
    return sum(
        one["state"] == "RUNNING" and (among is None or one["replica_id"] in among) for one in _replicas(application)
    )
