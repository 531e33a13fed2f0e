"""/v1/embeddings."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from deployments.router import calling
from deployments.router.openapi import documented
from deployments.router.services import Services
from deployments.router.wire import Many, WireModel, read_body
from models.errors import InvalidRequest
from models.specs import ModelSpec, Task
from models.tasks.embeddings import EMBED, EmbeddingRequest, EmbeddingResult

router = APIRouter(tags=["Embeddings"])

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class EmbeddingBody(WireModel):
    model: str = Field(min_length=1, max_length=256)
    input: str | Many[TokenId] | Many[str] | Many[Many[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, lt=1 << 31)
    user: str | None = None
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, lt=1 << 31)
    """Cut longer inputs to this many tokens instead of refusing them; -1 is the model's limit. As in vLLM."""

    @model_validator(mode="after")
    def _input_is_not_empty(self) -> EmbeddingBody:
        if not self.input or (isinstance(self.input, list) and any(item in ("", []) for item in self.input)):
            raise ValueError("input is empty")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be -1 or above 0")
        return self


@router.post("/v1/embeddings", **documented(EmbeddingBody, "Embed texts"))
async def embeddings(request: Request) -> Response:
    """A vector of length 1 for each input."""
    body = await read_body(request, EmbeddingBody)
    services: Services = request.app.state.services
    spec = services.resolve(body.model, Task.EMBEDDINGS)
    result = await calling.call(request, spec, EMBED, to_task(body, spec))
    return Response(to_wire(result, spec, body.encoding_format or "float"), media_type="application/json")


def to_task(body: EmbeddingBody, spec: ModelSpec) -> EmbeddingRequest:
    """The task's request. Raises InvalidRequest for what this model cannot do."""
    inputs = as_inputs(body.input)
    if spec.limits.inputs and len(inputs) > spec.limits.inputs:
        raise InvalidRequest(f"{spec.id} takes at most {spec.limits.inputs} inputs; there are {len(inputs)}.", "input")
    sizes = spec.dimensions
    if body.dimensions and sizes and not sizes.smallest <= body.dimensions <= sizes.native:
        raise InvalidRequest(
            f"{spec.id} makes {sizes.native} dimensions, which can be cut down to {sizes.smallest}; "
            f"{body.dimensions} is not possible.",
            "dimensions",
        )
    truncate = body.truncate_prompt_tokens
    return EmbeddingRequest(inputs, spec.limits.context_tokens if truncate == -1 else truncate, body.dimensions)


def as_inputs(value: str | list) -> tuple[str | tuple[int, ...], ...]:
    """One text, one token list, or several of either, as several."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value[0], int):
        return (tuple(value),)
    return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def to_wire(result: EmbeddingResult, spec: ModelSpec, encoding: str) -> bytes:
    vectors = np.frombuffer(result.vectors, dtype="<f4").reshape(-1, result.dimensions)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector if encoding == "float" else base64.b64encode(vector.tobytes()).decode(),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    document = {"object": "list", "data": data, "model": spec.id, "usage": usage}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
