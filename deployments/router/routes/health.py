"""/healthz and /readyz, for load balancers and for people."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response

from deployments.router.services import Services

router = APIRouter(tags=["Health"])


@router.get("/healthz", summary="Is the router alive?")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Is every model ready?",
    responses={503: {"description": "A model is loading or failed."}},
)
async def readyz(request: Request) -> Response:
    """200 when every deployed model takes requests, else 503. Either way each model's state, and why."""
    services: Services = request.app.state.services
    models = {name: state.document() for name, state in services.dispatcher.states().items()}
    ready = bool(models) and all(state.takes_requests for state in services.dispatcher.states().values())
    document = orjson.dumps({"ready": ready, "models": models})
    return Response(document, 200 if ready else 503, media_type="application/json")
