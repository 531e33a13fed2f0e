"""/v1/estimate: what a request would wait, take and cost now, without making it. Not OpenAI's."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field

from deployments.router import calling
from deployments.router.admission import AdmissionRequest
from deployments.router.dispatch import State
from deployments.router.openapi import documented
from deployments.router.record import record_of
from deployments.router.services import Services
from deployments.router.wire import WireModel, read_body
from models.errors import TooBusy
from models.specs import ModelSpec

router = APIRouter(tags=["Models"])


class EstimateBody(WireModel):
    """The body of the request that is asked about, whichever endpoint it is for."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(default=None, ge=0, lt=1 << 31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=1 << 31)


@router.post(
    "/v1/estimate", **documented(EstimateBody, "What a request would wait, take and cost", example={"max_tokens": 100})
)
async def estimate(request: Request) -> dict[str, Any]:
    """From what requests to this model took lately. Figures that are not known yet are null: the first requests after a
    start tell nothing. Nothing is sent to the model, and the same body may be refused a moment later."""
    body = await read_body(request, EstimateBody)
    services: Services = request.app.state.services
    spec = services.addressed(body.model)
    record_of(request.scope).is_for(spec)
    record = record_of(request.scope)
    record.most_tokens = body.max_completion_tokens or body.max_tokens
    return estimated(services, spec, calling.admission_request(request, record, calling.wanted_deadline(request)))


def estimated(services: Services, spec: ModelSpec, asked: AdmissionRequest) -> dict[str, Any]:
    state = services.state(spec.id)
    replicas = max(1, state.replicas)
    load, limit = services.admission.load(spec.id), services.admission.limit(spec.id, replicas)
    found = load.predictor.predict((load.in_flight + 1) / replicas, asked.tokens)
    refused = refusal(services, spec, replicas, asked)
    needs = spec.variant(state.variant if state.variant in spec.variants else None).needs
    device, devices = needs.device
    seconds = {
        "wait_s": 0.0 if state.state is State.READY else state.retry_after_s,
        "time_to_first_token_s": found.first_s,
        "time_per_output_token_s": found.token_s,
        "duration_s": found.duration_s,
    }
    return {
        "object": "estimate",
        "model": spec.id,
        "state": state.state,
        "admitted": refused is None,
        "retry_after_s": None if refused is None else math.ceil(refused.retry_after or 1),
        **{name: None if value is None else round(value, 4) for name, value in seconds.items()},
        "cost": {
            "device": device,
            "device_seconds": None if found.busy_s is None else round(found.busy_s * devices, 4),
        },
        "load": {"requests": load.in_flight, "limit": None if math.isinf(limit) else math.floor(limit)},
        "observations": load.predictor.busy_s.seen,
    }


def refusal(services: Services, spec: ModelSpec, replicas: int, asked: AdmissionRequest) -> TooBusy | None:
    try:
        services.admission.check(spec.id, replicas, asked)
    except TooBusy as error:
        return error
    return None
