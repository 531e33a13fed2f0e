"""How one application is: what the router says of it and what Serve says of it, as one answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deployments.router.reach import Reach
from deployments.settings import ModelArgs
from medley.checks.entries import MODEL_BUILDER
from medley.look.live import TAKES_REQUESTS, Live, replicas_of

STATES = {
    "NOT_STARTED": "loading",
    "DEPLOYING": "loading",
    "RUNNING": "ready",
    "UNHEALTHY": "failed",
    "DEPLOY_FAILED": "failed",
    "DELETING": "draining",
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
# How Serve's messages about a replica that could not start begin.
START_FAILED = ("A replica failed to start", "The deployment failed to start")


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """
    Attributes:
        state: ready, scaled_to_zero, loading, failed or draining.
        replicas: those that take requests.
        wanted: how many Serve wants; None when Serve did not say.
        phase: of the start, when known; `phase_s` is its age in seconds, of the whole start where no phase is known.
        fraction: how much of the phase is done, from 0 to 1, when known.
        cause: why it is not ready, with the `remedy`; also of attempts that failed before the current one.
        scaling: the router's figures of growth and demand, as in /readyz; empty when it says none.
        reach: up to which size it keeps its promise alone; None when the router does not say.
    """

    app: str
    is_model: bool
    state: str
    variant: str | None = None
    release: str | None = None
    replicas: int = 0
    wanted: int | None = None
    phase: str | None = None
    phase_s: float | None = None
    fraction: float | None = None
    cause: str | None = None
    remedy: str | None = None
    scaling: dict[str, Any] = field(default_factory=dict)
    reach: Reach | None = None

    @property
    def takes_requests(self) -> bool:
        return self.state in TAKES_REQUESTS

    @property
    def phase_text(self) -> str:
        """Such as `load 40 %`. Empty when no phase is known."""
        name = (self.phase or "").replace("_", " ")
        return f"{name} {self.fraction:.0%}".replace("%", " %") if name and self.fraction is not None else name

    @property
    def shortage(self) -> str:
        """That more is asked than its replicas serve, and whether more of them come. Empty if all is served."""
        asked, no_room = self.scaling.get("demand", 0.0), self.scaling.get("no_room", False)
        if asked <= self.replicas and not no_room:
            return ""
        most, times = self.scaling.get("most"), asked / max(1, self.replicas)
        serve = f"what {self.replicas} of {most} {_replicas(most or 0)} serve" if self.replicas else "what one serves"
        demand = f"demand {times:.1f} times {serve}" if asked > self.replicas else "more replicas are wanted"
        return "; ".join(filter(None, (demand, self._coming(no_room))))

    def _coming(self, no_room: bool) -> str:
        following = ORDINALS[self.replicas] if self.replicas < len(ORDINALS) else "next one"
        if no_room:
            return f"no room for the {following}"
        if (ready_in_s := self.scaling.get("ready_in_s")) is not None:
            return f"the {following} is ready in about {ready_in_s:.0f} s"
        return "that is the most there may be" if self.scaling.get("at_most") else ""


def statuses(live: Live) -> list[ApplicationStatus]:
    """Every application that Serve or the router knows, in Serve's order."""
    return [status_of(live, app) for app in {**live.applications, **(live.models or {})}]


def status_of(live: Live, app: str) -> ApplicationStatus:
    """Where the router knows a state, it wins: it is what clients get."""
    application, told = live.applications.get(app, {}), (live.models or {}).get(app, {})
    args = model_args(application)
    state = told.get("state") or _state(application)
    since = told.get("since") if told.get("phase") else _starting_since(application) if state == "loading" else None
    cause, remedy = told.get("cause"), told.get("remedy")
    if not cause and (why := failure_message(application)):
        cause, remedy = last_line(why), f"`medley doctor {app}` says more."
    return ApplicationStatus(
        app=app,
        is_model=app in (live.models or {}) or is_model(application),
        state=state,
        variant=told.get("variant") or (args.variant_name if args else None),
        release=told.get("release") or (_args(application).get("release", "1") if application else None),
        replicas=told.get("replicas", sum(one["state"] == "RUNNING" for one in replicas_of(application))),
        wanted=wanted_replicas(application) if application else None,
        phase=told.get("phase"),
        phase_s=None if since is None else max(0.0, live.now - since),
        fraction=told.get("fraction"),
        cause=cause,
        remedy=remedy,
        scaling=told.get("scaling") or {},
        reach=Reach.of(told["reach"]) if told.get("reach") else None,
    )


def _replicas(count: int) -> str:
    return "replica" if count == 1 else "replicas"


def is_model(application: dict[str, Any]) -> bool:
    return (application.get("deployed_app_config") or {}).get("import_path") == MODEL_BUILDER


def model_args(application: dict[str, Any]) -> ModelArgs | None:
    """What the model was deployed with. None where it is no model, or one that the catalog does not have."""
    try:
        return ModelArgs.model_validate(_args(application)) if is_model(application) else None
    except Exception:  # deployed by another catalog than ours
        return None


def wanted_replicas(application: dict[str, Any]) -> int:
    return sum(one.get("target_num_replicas") or 0 for one in application.get("deployments", {}).values())


def failure_message(application: dict[str, Any]) -> str:
    """What Serve says of a start that failed or of an application that is unhealthy. Empty when nothing is wrong."""
    deployments = list(application.get("deployments", {}).values())
    messages = [one.get("message") or "" for one in deployments if _is_wrong(one)]
    if application.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
        messages.append(application.get("message") or "")
    return max(messages, key=len, default="")


def last_line(message: str) -> str:
    """The line of a traceback that names the error."""
    return next((line.strip() for line in reversed(message.splitlines()) if line.strip()), "")[:300]


def _is_wrong(deployment: dict[str, Any]) -> bool:
    message = deployment.get("message") or ""
    return deployment.get("status") in ("UNHEALTHY", "DEPLOY_FAILED") or message.startswith(START_FAILED)


def _args(application: dict[str, Any]) -> dict[str, Any]:
    return (application.get("deployed_app_config") or {}).get("args") or {}


def _state(application: dict[str, Any]) -> str:
    state = STATES.get(application.get("status", ""), "loading")
    return "scaled_to_zero" if state == "ready" and wanted_replicas(application) == 0 else state


def _starting_since(application: dict[str, Any]) -> float | None:
    starts = [one.get("start_time_s") for one in replicas_of(application) if one["state"] != "RUNNING"]
    return min((start for start in starts if start), default=None)
