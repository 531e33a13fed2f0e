"""/tokenize and /detokenize, in vLLM's form."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from deployments.router import calling
from deployments.router.openapi import documented
from deployments.router.routes.chat import Message
from deployments.router.services import Services
from deployments.router.wire import Many, WireModel, read_body
from models.tasks import TASKS
from models.tasks.tokens import DETOKENIZE, TOKENIZE, TokenizeRequest

router = APIRouter(tags=["Tokens"])

READ_TOKENS = tuple(task for task in TASKS if task.reads_tokens)


class TokenizeBody(WireModel):
    model: str = Field(min_length=1, max_length=256)
    prompt: str | None = None
    messages: Many[Message] | None = Field(default=None, min_length=1)
    """Instead of a prompt: a chat, which the model's template turns into text first."""
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send either prompt or messages")
        return self


class DetokenizeBody(WireModel):
    model: str = Field(min_length=1, max_length=256)
    tokens: Many[Annotated[int, Field(ge=0, lt=1 << 31)]]


@router.post(
    "/tokenize", **documented(TokenizeBody, "Cut a text into tokens", example={"prompt": "The train leaves at noon."})
)
async def tokenize(request: Request) -> Response:
    body = await read_body(request, TokenizeBody)
    messages = tuple(message.model_dump(exclude_none=True) for message in body.messages) if body.messages else None
    task = TokenizeRequest(
        body.prompt, messages, body.add_special_tokens, body.add_generation_prompt, body.return_token_strs
    )
    services: Services = request.app.state.services
    spec = services.resolve(body.model, *READ_TOKENS)
    result = await calling.call(request, spec, TOKENIZE, task)
    return as_json(
        {
            "count": len(result.tokens),
            "max_model_len": spec.limits.context_tokens,
            "tokens": result.tokens,
            "token_strs": result.token_strings,
        }
    )


@router.post("/detokenize", **documented(DetokenizeBody, "Put tokens back together", example={"tokens": [1, 2, 3]}))
async def detokenize(request: Request) -> Response:
    body = await read_body(request, DetokenizeBody)
    services: Services = request.app.state.services
    spec = services.resolve(body.model, *READ_TOKENS)
    text = await calling.call(request, spec, DETOKENIZE, body.tokens)
    return as_json({"prompt": text})


def as_json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
