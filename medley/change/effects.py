"""What a change of one application means for its clients, in a sentence or two."""

from __future__ import annotations

from typing import Any

from medley.change.differences import Kind
from medley.change.surge import SURGE, Resources, Room, replicas_wanted

FINISH = "Its replicas finish what they work on;"


def effect_of(
    kind: Kind, application: dict[str, Any], room: Room | None, cold_start_s: float | None, survives: bool
) -> tuple[str, bool]:
    """
    Args:
        application: as it is now, in Serve's answer.
        room: the numbers, where new replicas start.
        cold_start_s: seconds that its last start took, where known.
        survives: what went live last is the version asked for.

    Returns:
        The sentence, and whether requests wait or fail because of the change.
    """
    match kind:
        case Kind.ADD:
            return _of_adding(room), False
        case Kind.REMOVE:
            return f"{FINISH} new requests get 503.", True
        case Kind.UNCHANGED:
            return _on_a_failed_one(application), False
        case Kind.IN_PLACE:
            return "Nothing restarts.", False
        case Kind.RESTART:
            return _of_restarting(application, room or Room(Resources(), None), cold_start_s, survives)


def _of_adding(room: Room | None) -> str:
    if room is None or room.free is None or room.fits:
        return ""
    return f"There is no room for it now, and it waits until there is ({room})."


def _on_a_failed_one(application: dict[str, Any]) -> str:
    # Serve builds an application again with each deploy, but starts replicas that failed again only for a new version.
    if application.get("status") == "DEPLOY_FAILED" and application.get("deployments"):
        return "It failed, and Serve does not try the same document again. Change `release` in its args."
    return ""


def _of_restarting(
    application: dict[str, Any], room: Room, cold_start_s: float | None, survives: bool
) -> tuple[str, bool]:
    if after_failure := _after_failure(application, survives):
        return after_failure, False
    replicas = replicas_wanted(application)
    if not replicas:
        return "No replica runs now, so none restarts; the next one that starts is the new version.", False
    if room.percent:
        return _beside(room), False
    if replicas > 1:
        how_many = f"{_batch(application)} of {replicas} replicas at a time; the others serve."
        return f"{how_many} {_why_not_beside(room)}", False
    return f"{_gap(application, cold_start_s)} {_why_not_beside(room)}", True


def _after_failure(application: dict[str, Any], survives: bool) -> str:
    """What is special about an application whose last deploy failed or is not finished. Empty for any other."""
    if not application.get("deployments"):  # Serve shows none while it builds an application, or when it could not
        return "Serve has not built what was asked of it before; replicas of this version that still run stay."
    if application.get("status") != "DEPLOY_FAILED":
        return ""
    if not _any_running(application):
        return "It failed and has no replica now; this starts it."
    return (
        "Its last upgrade failed; the old replicas that still serve are of this version and stay." if survives else ""
    )


def _any_running(application: dict[str, Any]) -> bool:
    return any(
        replica.get("state") == "RUNNING"
        for deployment in application["deployments"].values()
        for replica in deployment.get("replicas", [])
    )


def _batch(application: dict[str, Any]) -> int:
    """How many replicas Serve replaces at a time."""
    shares = [
        one["deployment_config"]["rolling_update_percentage"] * one["target_num_replicas"]
        for one in application["deployments"].values()
    ]
    return max(1, *map(int, shares))


def _beside(room: Room) -> str:
    beside = "The new version comes up beside the old one, which serves until then"
    if room.fits or room.free is None:
        return f"{beside} ({room})."
    return (
        f"{beside}, but there is no room for both, and it waits until there is ({room}). "
        f"With `{SURGE}: 0` the old one would stop first."
    )


def _gap(application: dict[str, Any], cold_start_s: float | None) -> str:
    which = "every request waits or gets" if application.get("route_prefix") else "requests to it wait or get"
    how_long = f"for about {cold_start_s:.0f} s, as long as its last start took" if cold_start_s else "until it is up"
    return f"The old replica stops before the new one starts: {which} 503 {how_long}."


def _why_not_beside(room: Room) -> str:
    if not room.stated:
        return f"Both do not fit ({room})." if room.free else f"Whether both fit is not known ({room})."
    could = f"There is room for both: `{SURGE}: 100` would leave no gap" if room.fits else "There is no room for both"
    return f"The file says `{SURGE}: 0`. {could} ({room})." if room.free else f"The file says `{SURGE}: 0`."
