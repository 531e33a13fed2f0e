"""The state of each model, from Serve's status of its application and the replicas' facts on the board.

Pure computation: `ingress.py` reads Serve and the board once a second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deployments.board import COLD_START, DIGESTS, FAILURE, PACE, PROGRESS
from deployments.router.dispatch import ModelState, State
from deployments.router.growth import Resources, Scale, demand_of, free_by_node, highest, unplaced
from deployments.servers.causes import DIED, WHOLE_STORY
from deployments.settings import AUTO, ModelArgs
from models.catalog import Catalog
from models.errors import ModelNotFound

Facts = Mapping[str, Mapping[str, Any]]

# The name of the router's deployment.
ROUTER = "router"

# In an upgrade, an old replica is UPDATING and still serves.
# Serve still sends requests to a replica that must move, and to all replicas while its controller recovers.
TAKES_REQUESTS = ("RUNNING", "UPDATING", "PENDING_MIGRATION", "RECOVERING")
# Used until a first start has been measured.
LOAD_TIME_GUESS_S = 30.0
LONGEST_RETRY_AFTER_S = 60.0


def model_states(
    applications: Mapping[str, Any],
    catalog: Catalog,
    before: Mapping[str, ModelState],
    facts: Facts,
    now: float,
    *,
    lost: Collection[str] = (),
    nodes: Mapping[str, Resources] | None = None,
) -> dict[str, ModelState]:
    """The states of all applications, in the catalog's order, `model` before `model@variant`.

    Args:
        applications: from Serve's REST API.
        before: the previous states.
        facts: all facts of the board.
        now: Unix time.
        lost: ids of replicas, or of their actors, that died although Serve may not know it yet.
        nodes: what each node has in all, by its id; None if that is not known.
    """
    place = {row: number for number, row in enumerate(catalog)}
    served = [catalog[name] for name in applications if name in catalog]
    names = [spec.id for spec in sorted(served, key=lambda spec: (place[spec.row], spec.id != spec.row))]
    living = {name: _without(lost, applications[name]) if lost else applications[name] for name in names}
    free = free_by_node(applications, nodes) if nodes is not None else None
    return {name: _state(name, living[name], before.get(name), facts, now, free) for name in names}


def _without(lost: Collection[str], application: Mapping[str, Any]) -> Mapping[str, Any]:
    deployments = {
        name: {
            **deployment,
            "replicas": [
                one
                for one in deployment.get("replicas", [])
                if one["replica_id"] not in lost and one.get("actor_id") not in lost
            ],
        }
        for name, deployment in application["deployments"].items()
    }
    return {**application, "deployments": deployments}


def _state(  # noqa: PLR0917
    name: str,
    application: Mapping[str, Any],
    before: ModelState | None,
    facts: Facts,
    now: float,
    free: Mapping[str, Resources] | None,
) -> ModelState:
    if not application["deployments"] and before and before.replicas and application["status"] != "DELETING":
        # While Serve builds a new version, and after it failed to, it does not list the replicas that still serve.
        failed = application["status"] == "DEPLOY_FAILED"
        unbuilt = {"cause": "Serve could not build its new version.", "remedy": WHOLE_STORY} if failed else {}
        return replace(before, **unbuilt)
    deployment = application["deployments"].get("model", {})
    replicas = deployment.get("replicas", [])
    args = _args_of(application)
    running = [replica for replica in replicas if replica["state"] in TAKES_REQUESTS]
    starting = [replica for replica in replicas if replica["state"] == "STARTING"]
    asked = (_variant_of(args), args.release if args else None)
    variant, release = _version_of(name, running, asked, facts)
    common: dict[str, Any] = {
        "variant": variant,
        "release": release,
        "since": application["last_deployed_time_s"],
        "replicas": len(running),
        "draining": sum(replica["state"] == "STOPPING" for replica in replicas),
        "wakes_on_request": _lowest(deployment) == 0,
        "scale": _scale(name, deployment, running, starting, _usual(name, args, facts), facts, now, free),
        "paces": _paces(name, facts),
        **_failure(name, application, replicas, facts),
    }
    if application["status"] == "DELETING":
        return ModelState(State.DRAINING, **common)
    if running:
        return ModelState(State.READY, **common)
    if application["status"] == "DEPLOY_FAILED":
        return ModelState(State.FAILED, **{"cause": "It could not be started.", "remedy": DIED, **common})
    if application["status"] == "RUNNING" and not starting and common["wakes_on_request"]:
        return ModelState(State.SCALED_TO_ZERO, retry_after_s=_usual(name, args, facts), **common)
    common["restarting"] = _was_up(before, common["since"])
    return ModelState(State.LOADING, **_progress(name, args, starting, facts, now), **common)


def _scale(  # noqa: PLR0917
    name: str,
    deployment: Mapping[str, Any],
    running: Sequence[Mapping[str, Any]],
    starting: Sequence[Mapping[str, Any]],
    usual_s: float,
    facts: Facts,
    now: float,
    free: Mapping[str, Resources] | None,
) -> Scale:
    without = unplaced(starting, deployment, free, now)
    so_far = [max(0.0, now - replica["start_time_s"]) for replica in starting if replica.get("pid")]
    return Scale(
        wanted=deployment.get("target_num_replicas") or 0,
        most=highest(deployment),
        starting=len(starting) - without,
        unplaced=without,
        ready_in_s=_left(usual_s, max(so_far, default=0.0)),
        demand=demand_of(name, running, facts, now),
    )


def _paces(name: str, facts: Facts) -> dict[str, Mapping[str, Any]]:
    """What replicas told of their pace, by variant."""
    prefix = PACE.format(app=name, variant="")
    return {key.removeprefix(prefix): fact for key, fact in facts.items() if key.startswith(prefix)}


def _was_up(before: ModelState | None, since: float) -> bool:
    """Whether the same deployment took requests before."""
    return before is not None and before.since == since and (before.state is State.READY or before.restarting)


def _version_of(
    name: str, running: list[Mapping[str, Any]], asked: tuple[str | None, str | None], facts: Facts
) -> tuple[str | None, str | None]:
    """The variant and release of the replicas that take requests, from the board.

    Falls back to those `asked` for if no replica takes requests, if one has not put its own on the board, or while two
    versions take requests side by side.
    """
    said = [facts.get(PROGRESS.format(app=name, replica=replica["replica_id"]), {}) for replica in running]
    versions = {(one.get("variant"), one.get("release")) for one in said}
    known = len(versions) == 1 and all(one.get("variant") for one in said)
    return versions.pop() if known else asked


def _variant_of(args: ModelArgs | None) -> str | None:
    """None if a replica chooses it: `medley deploy` writes the chosen variant down, Ray's own command does not."""
    return None if args is None or args.variant == AUTO else args.variant_name


def _progress(
    name: str, args: ModelArgs | None, starting: list[Mapping[str, Any]], facts: Facts, now: float
) -> dict[str, Any]:
    """The progress of the replica that started first, and when it will probably be ready."""
    if not starting:
        return {"retry_after_s": _retry_after(_usual(name, args, facts), 0.0)}
    first = min(starting, key=lambda replica: replica["start_time_s"])
    so_far = max(0.0, now - first["start_time_s"])
    progress: dict[str, Any] = {"retry_after_s": _retry_after(_usual(name, args, facts), so_far)}
    shown = facts.get(PROGRESS.format(app=name, replica=first["replica_id"]))
    if shown:
        return {**progress, "phase": shown["phase"], "phase_since": shown["since"], "fraction": shown.get("fraction")}
    phase = "import" if first.get("pid") else "schedule"
    return {**progress, "phase": phase, "phase_since": first["start_time_s"]}


def _retry_after(usual: float, so_far: float) -> float:
    """Seconds until a start that usually takes `usual` seconds ends. For one that takes longer: a tenth of the time
    that it has taken so far."""
    return min(LONGEST_RETRY_AFTER_S, max(2.0, _left(usual, so_far)))


def _left(usual: float, so_far: float) -> float:
    return usual - so_far if so_far < usual else so_far / 10


def _usual(name: str, args: ModelArgs | None, facts: Facts) -> float:
    """How many seconds the last start of this variant took."""
    last = cold_start(name, _variant_of(args) or "", facts)
    return sum(last.values()) if last else LOAD_TIME_GUESS_S


def _failure(
    name: str, application: Mapping[str, Any], replicas: list[Mapping[str, Any]], facts: Facts
) -> dict[str, str]:
    """Why the last attempt failed: the replica's own words, or that it died without any."""
    deployed = application["last_deployed_time_s"]
    said = facts.get(FAILURE.format(app=name))
    if said and said["at"] > deployed:
        return {"cause": said["cause"], "remedy": said["remedy"]}
    silent = [fact for _, fact in orphans(name, replicas, facts) if fact["since"] > deployed]
    if silent:
        phase = max(silent, key=lambda fact: fact["since"])["phase"]
        return _died_in(phase)
    # It died before it could report anything, so only Serve's message is left.
    if any("ActorDiedError" in one.get("message", "") for one in application["deployments"].values()):
        return _died_in("import")
    return {}


def _died_in(phase: str) -> dict[str, str]:
    return {"cause": f"Its process died in the phase {phase}.", "remedy": DIED}


def orphans(name: str, replicas: list[Mapping[str, Any]], facts: Facts) -> list[tuple[str, Mapping[str, Any]]]:
    """The progress of replicas that Serve no longer knows, because they died while starting."""
    living = {PROGRESS.format(app=name, replica=replica["replica_id"]) for replica in replicas}
    prefix = PROGRESS.format(app=name, replica="")
    return [
        (key, fact)
        for key, fact in facts.items()
        if key.startswith(prefix) and key not in living and not fact.get("done")
    ]


def stale(applications: Mapping[str, Any], facts: Facts) -> list[str]:
    """Keys of the board that are out of date: the load of replicas that are gone; progress of those that became ready
    and are gone; progress and failures from before an application's last deployment; and everything but start times and
    paces of applications that are gone. Facts of the whole cluster stay, and so do those of living replicas, because
    they say which variant runs."""
    keys = []
    for key, fact in facts.items():
        kind, _, rest = key.partition("/")
        app, _, replica = rest.partition("/")
        application = applications.get(app)
        of_replica = kind in ("progress", "load")
        if kind in ("cold_start", "pace", DIGESTS) or (of_replica and application and _may_live(replica, application)):
            continue
        at = fact.get("since") or fact.get("at") or 0.0
        old = application is None or at < application["last_deployed_time_s"] or fact.get("done")
        if application is None or kind == "load" or (old and _settled(application)):
            keys.append(key)
    return keys


def _settled(application: Mapping[str, Any]) -> bool:
    return all(replica["state"] in TAKES_REQUESTS for replica in replicas_of(application))


def _may_live(replica: str, application: Mapping[str, Any]) -> bool:
    """Whether Serve is building a new version, during which it lists no replicas."""
    return not application["deployments"] or any(one["replica_id"] == replica for one in replicas_of(application))


def replicas_of(application: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All that Serve lists of an application."""
    return [one for deployment in application.get("deployments", {}).values() for one in deployment.get("replicas", [])]


def routers(applications: Mapping[str, Any]) -> int:
    """How many replicas of the router there are, in whatever state."""
    return sum(
        len(deployment.get("replicas", []))
        for application in applications.values()
        for name, deployment in application.get("deployments", {}).items()
        if name == ROUTER
    )


def cold_start(name: str, variant: str, facts: Facts) -> dict[str, float]:
    """The last start of a model's variant: seconds by phase. Empty if none is known."""
    fact = facts.get(COLD_START.format(app=name, variant=variant))
    return dict(fact["seconds"]) if fact else {}


def scheduling_s(name: str, application: Mapping[str, Any], variant: str, facts: Facts) -> float | None:
    """Seconds from Serve's request for the replica that started last until its process began: the wait for resources
    and for Ray. None if that replica is gone."""
    fact = facts.get(COLD_START.format(app=name, variant=variant)) or {}
    for replica in application["deployments"].get("model", {}).get("replicas", []):
        if replica["replica_id"] == fact.get("replica") and replica.get("start_time_s"):
            return max(0.0, fact["process_started"] - replica["start_time_s"])
    return None


def _lowest(deployment: Mapping[str, Any]) -> int | None:
    config = deployment.get("deployment_config") or {}
    return (config.get("autoscaling_config") or {}).get("min_replicas")


def _args_of(application: Mapping[str, Any]) -> ModelArgs | None:
    config = application.get("deployed_app_config") or {}
    try:
        return ModelArgs.model_validate(config.get("args"))
    except (ValueError, ModelNotFound):
        return None
