"""/v1/models, /v1/models/{id}: what there is and how it is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from deployments.router.dispatch import ModelState
from deployments.router.openapi import ERRORS, refusal
from deployments.router.services import Services
from models.specs import ModelSpec

router = APIRouter(tags=["Models"])


@router.get("/v1/models", summary="Models on this cluster")
async def list_models(request: Request) -> dict[str, Any]:
    """Every model that is deployed, in any state."""
    services: Services = request.app.state.services
    states = services.dispatcher.states()
    cards = [card(spec, states[name]) for name, spec in services.catalog.items() if name in states]
    return {"object": "list", "data": cards}


# 4XX rather than 404, because without it FastAPI describes a 422 of its own, which is never sent.
@router.get("/v1/models/{model}", summary="One model", responses={"4XX": refusal(ERRORS["404"])})
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """One model of the catalog, deployed or not."""
    services: Services = request.app.state.services
    spec = services.catalog.resolve(model)
    return card(spec, services.state(spec.id))


def card(spec: ModelSpec, state: ModelState) -> dict[str, Any]:
    """OpenAI's model object, and beside it what a client needs to choose."""
    limits = spec.limits.model_dump(exclude_none=True)
    if spec.dimensions:
        limits["dimensions"] = spec.dimensions.model_dump()
    return {
        "id": spec.id,
        "object": "model",
        "created": int(state.since or 0),
        "owned_by": spec.owner,
        "task": spec.task,
        "title": spec.title,
        "licence": spec.licence,
        "capabilities": sorted(spec.capabilities),
        "limits": limits,
        **state.document(),
    }
