"""/v1/models, /v1/models/{id}: what there is and how it is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from deployments.router.addressing import names_of
from deployments.router.openapi import ERRORS, refusal
from deployments.router.routes import example_of
from deployments.router.services import Services
from models.specs import ModelSpec

router = APIRouter(tags=["Models"])


@router.get("/v1/models", summary="Models on this cluster")
async def list_models(request: Request) -> dict[str, Any]:
    """Every model that is deployed, in any state; one that is served in several variants once for each."""
    services: Services = request.app.state.services
    served = [name for name in services.dispatcher.states() if name in services.catalog]
    return {"object": "list", "data": [card(services, services.catalog[name]) for name in served]}


# 4XX rather than 404, because FastAPI would otherwise add a 422 that is never sent.
@router.get("/v1/models/{model}", summary="One model", responses={"4XX": refusal(ERRORS["404"])})
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """One model of the catalog, deployed or not, by any of its names."""
    services: Services = request.app.state.services
    return card(services, services.addressed(model))


def card(services: Services, spec: ModelSpec) -> dict[str, Any]:
    """OpenAI's model object, with additional facts that help clients choose.

    Args:
        spec: the model, with the id of its application if it has one.
    """
    example = example_of(spec.task)
    state, of_task = services.state(spec.id), spec.settings.card()
    limits = spec.limits.model_dump(exclude_none=True) | of_task.pop("limits", {})
    return {
        "id": spec.id,
        "object": "model",
        "created": int(state.since or 0),
        "owned_by": spec.owner,
        "task": spec.task.name,
        "title": spec.title,
        "licence": spec.licence,
        "capabilities": sorted(spec.capabilities),
        "limits": limits,
        "example": example.document() if example else None,
        **of_task,
        "names": names_of(spec.id, services.catalog, services.dispatcher.states()),
        **services.document(spec.id),
    }
