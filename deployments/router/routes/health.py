"""/healthz and /readyz, for load balancers and for people."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from deployments.router.dispatch import BLIND_S, ModelState
from deployments.router.services import Services

router = APIRouter(tags=["Health"])


@router.get("/healthz", summary="Is the router alive?")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Is every model ready?",
    responses={503: {"description": "A model is loading or failed, or nobody knows."}},
)
async def readyz(request: Request) -> Response:
    """200 when every deployed model takes requests, or is waking for one, else 503. Either way each model's state, and
    why, and how many seconds ago that was learnt. 503 too if that is over 30; requests still go to the replicas that
    were known then."""
    services: Services = request.app.state.services
    states, age_s = services.dispatcher.states(), services.dispatcher.age_s()
    # Who wakes a model that sleeps must not make the router seem unready for others.
    up = bool(states) and all(state.takes_requests or state.is_waking for state in states.values())
    ready = up and age_s <= BLIND_S
    document: dict[str, Any] = {"ready": ready, "age_s": round(age_s, 1)}
    if age_s > BLIND_S:
        document["cause"] = f"The control plane does not answer for {age_s:.0f} s. The states are from before."
    document["models"] = {name: services.document(name) | paces(state) for name, state in states.items()}
    return Response(orjson.dumps(document), 200 if ready else 503, media_type="application/json")


def paces(state: ModelState) -> dict[str, Any]:
    """What `medley plan` needs to say the same of another promise, or of another variant."""
    found = {variant: {"unit": one["unit"], "sizes": one["sizes"]} for variant, one in state.paces.items()}
    return {"pace": found} if found else {}
