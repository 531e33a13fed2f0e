"""/v1/estimate: what a request would wait, take and cost now, without making it. Not OpenAI's."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field

from deployments.router import calling
from deployments.router.dispatch import State
from deployments.router.openapi import documented
from deployments.router.record import record_of
from deployments.router.services import Services
from deployments.router.ways import ask_of
from deployments.router.wire import WireModel, read_body
from deployments.servers.calls import Estimate, Terms, Times
from models.errors import ServingError
from models.slo import LIMITS
from models.specs import ModelSpec
from models.tasks.methods import Ask

router = APIRouter(tags=["Models"])

# For the replica to tell.
PATIENCE_S = 2.0


class EstimateBody(WireModel):
    """The body of the request that is asked about, whichever endpoint it is for. What it leaves out is taken from the
    example of its task's endpoint."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=256)


@router.post("/v1/estimate", **documented(EstimateBody, "What a request would wait, take and cost", example={}))
async def estimate(request: Request) -> dict[str, Any]:
    """From the work in the request, the pace of a replica and what is inside it. Figures that are not known are
    null, as those of a model that is not up. Nothing is sent to the model. The same body may be refused a moment
    later."""
    body = await read_body(request, EstimateBody)
    services: Services = request.app.state.services
    spec = services.addressed(body.model)
    record_of(request.scope).is_for(spec)
    sent = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
    asker = calling.asker_of(request, calling.wanted_deadline(request))
    terms = services.promises.terms(spec.id, asker, stream=bool(sent.get("stream")))
    ask = ask_of(spec, sent)
    return document(services, spec, terms, await asked(services, spec, ask, terms) if ask else None)


async def asked(services: Services, spec: ModelSpec, ask: Ask[Any, Any], terms: Terms) -> Estimate | None:
    """What a replica tells; None if none does."""
    if services.state(spec.id).state is not State.READY:
        return None
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await services.dispatcher.estimate(spec, ask, terms)
    except TimeoutError:
        return None


def document(services: Services, spec: ModelSpec, terms: Terms, found: Estimate | None) -> dict[str, Any]:
    state = services.state(spec.id)
    needs = spec.variant(state.variant if state.variant in spec.variants else None).needs
    device, devices = needs.device
    refused = found.refused if found else None
    promise = services.promises.of(spec.id)
    work_s = found.work_s if found else None
    return {
        "object": "estimate",
        "model": spec.id,
        "state": state.state,
        "admitted": refused is None,
        "retry_after_s": math.ceil(refused.retry_after) if refused and refused.retry_after else None,
        "error": error_of(spec, refused),
        "wait_s": 0.0 if state.state is State.READY else round(state.retry_after_s, 4),
        **seconds(found.now if found else None),
        "alone": seconds(found.alone if found else None),
        "promise": {limit: getattr(promise, limit) for limit in LIMITS if getattr(promise, limit, None) is not None},
        "promise_kept": kept(found.now, terms) if found and found.now and promise else None,
        "cost": {"device": device, "device_seconds": None if work_s is None else round(work_s * devices, 4)},
        "load": {
            "requests": found.inside if found else None,
            "device_seconds": round(found.inside_s * devices, 4) if found else None,
        },
        "observations": found.observations if found else 0,
    }


def error_of(spec: ModelSpec, refused: ServingError | None) -> dict[str, str] | None:
    return {"code": refused.code, "message": f"{spec.id}: {refused.message}"} if refused else None


def seconds(times: Times | None) -> dict[str, float | None]:
    if times is None:
        return dict.fromkeys(("time_to_first_token_s", "time_per_output_token_s", "duration_s"))
    return {
        "time_to_first_token_s": round(times.first_s, 4),
        "time_per_output_token_s": round(times.piece_s, 4),
        "duration_s": round(times.whole_s, 4),
    }


def kept(times: Times, terms: Terms) -> bool:
    return times.first_s <= terms.first_s and times.piece_s <= terms.piece_s and times.whole_s <= terms.whole()
