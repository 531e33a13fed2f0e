"""/v1/embeddings."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from deployments.router.endpoint import Example, endpoint
from deployments.router.wire import Many, WireModel
from models.errors import InvalidRequest
from models.specs import ModelSpec
from models.tasks.embeddings import EMBED, TASK, EmbeddingRequest, EmbeddingResult

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


def to_request(body: EmbeddingBody, spec: ModelSpec) -> EmbeddingRequest:
    """The task's request. Raises InvalidRequest if this model cannot do it."""
    inputs = as_inputs(body.input)
    if spec.limits.inputs and len(inputs) > spec.limits.inputs:
        raise InvalidRequest(f"{spec.id} takes at most {spec.limits.inputs} inputs; there are {len(inputs)}.", "input")
    sizes = TASK.settings_of(spec).dimensions
    if body.dimensions and not sizes.smallest <= body.dimensions <= sizes.native:
        raise InvalidRequest(
            f"{spec.id} makes {sizes.native} dimensions, which can be cut down to {sizes.smallest}; "
            f"{body.dimensions} is not possible.",
            "dimensions",
        )
    truncate = body.truncate_prompt_tokens
    return EmbeddingRequest(inputs, spec.limits.context_tokens if truncate == -1 else truncate, body.dimensions)


def as_inputs(value: str | list) -> tuple[str | tuple[int, ...], ...]:
    """The inputs as a list: one text or token list becomes a list of one."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value[0], int):
        return (tuple(value),)
    return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def to_answer(result: EmbeddingResult, body: EmbeddingBody, spec: ModelSpec) -> dict[str, Any]:
    vectors = np.frombuffer(result.vectors, dtype="<f4").reshape(-1, result.dimensions)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector if body.encoding_format != "base64" else base64.b64encode(vector.tobytes()).decode(),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    return {"object": "list", "data": data, "model": spec.id, "usage": usage}


EXAMPLE = Example("/v1/embeddings", {"input": "The train leaves at noon."})

router = endpoint(
    EXAMPLE,
    TASK,
    EMBED,
    EmbeddingBody,
    to_request=to_request,
    to_answer=to_answer,
    tag="Embeddings",
    summary="Embed texts",
    about="A vector of length 1 for each input.",
)
