"""/v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field, field_validator, model_validator

from deployments.router import calling
from deployments.router.endpoint import Example
from deployments.router.openapi import documented
from deployments.router.record import record_of
from deployments.router.sequences import check_sequences
from deployments.router.services import Services
from deployments.router.streaming import open_event_stream
from deployments.router.ways import asks
from deployments.router.wire import Many, WireModel, not_too_many_fields, read_body
from models.errors import InvalidRequest, UnsupportedParameter
from models.specs import ModelSpec
from models.tasks.chat import CHAT, COMPLETE, RESERVED_FOR_TEMPLATES, TASK, GenerationRequest
from models.tasks.methods import Stream

router = APIRouter(tags=["Chat and text"])

Penalty = Annotated[float, Field(ge=-2, le=2)]
MOST_STOPS = 16
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(not_too_many_fields)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]


# Parameters of OpenAI's that are taken with any value and change nothing here. Models do not see them.
WITHOUT_EFFECT = {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"}
ABSENT = (None,)


class StreamOptions(WireModel):
    neutral: ClassVar = {"include_obfuscation": (None, False)}

    include_usage: bool = False
    """Send token counts in one more event before the end."""
    continuous_usage_stats: bool = False
    """Send token counts in every event."""


class Function(WireModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(WireModel):
    type: Literal["function"]
    function: Function


class FunctionName(WireModel):
    name: str


class NamedTool(WireModel):
    type: Literal["function"]
    function: FunctionName


class TextPart(WireModel):
    neutral: ClassVar = {"prompt_cache_breakpoint": ABSENT}

    type: Literal["text"]
    text: str


class FunctionCall(WireModel):
    name: str
    arguments: str


class ToolCall(WireModel):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(WireModel):
    # Clients send these back with an answer that they got.
    neutral: ClassVar = {"annotations": (None, []), "audio": ABSENT, "function_call": ABSENT}

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Many[TextPart] | None = None
    name: str | None = None
    tool_calls: Many[ToolCall] | None = None
    """What an assistant called earlier in the chat."""
    tool_call_id: str | None = None
    """For role `tool`: the call this is the result of."""
    refusal: str | None = None

    @field_validator("role")
    @classmethod
    def _developer_is_system(cls, role: str) -> str:
        """`developer` is what OpenAI now calls `system`; models know the old name."""
        return "system" if role == "developer" else role

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            raise ValueError(f"a message of role {self.role} needs content")
        return self


class JSONSchema(WireModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(WireModel):
    type: Literal["text"]


class JSONObjectFormat(WireModel):
    type: Literal["json_object"]


class JSONSchemaFormat(WireModel):
    type: Literal["json_schema"]
    json_schema: JSONSchema


ResponseFormat = Annotated[TextFormat | JSONObjectFormat | JSONSchemaFormat, Field(discriminator="type")]


class Sampling(WireModel):
    """The parameters that chat and text completion share: OpenAI's, then vLLM's own."""

    model: str = Field(min_length=1, max_length=256)
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    max_tokens: int | None = Field(default=None, ge=1, lt=1 << 31)
    n: int | None = Field(default=None, ge=1, le=16)
    seed: Seed | None = None
    stop: str | Many[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    user: str | None = None

    top_k: int | None = Field(default=None, ge=-1, lt=1 << 31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    stop_token_ids: Many[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(default=None, ge=0, lt=1 << 31)
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, lt=1 << 31)
    allowed_token_ids: Many[TokenId] | None = None
    bad_words: Many[str] | None = None
    response_format: ResponseFormat | None = None
    add_special_tokens: bool | None = None

    @field_validator("stop")
    @classmethod
    def _stops_can_be_found(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > MOST_STOPS:
            raise ValueError(f"takes at most {MOST_STOPS} texts; there are {len(stop)}")
        if stop == "" or (isinstance(stop, list) and "" in stop):
            raise ValueError("an empty text stops nothing; leave it out")
        return stop

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class ChatCompletionBody(Sampling):
    neutral: ClassVar = {
        "audio": ABSENT,
        "function_call": ABSENT,
        "functions": ABSENT,
        "modalities": (None, ["text"]),
        "moderation": ABSENT,
        "prediction": ABSENT,
        "prompt_cache_options": ABSENT,
        "reasoning_effort": ABSENT,
        "service_tier": (None, "auto", "default"),
        "store": (None, False),
        "verbosity": ABSENT,
        "web_search_options": ABSENT,
    }

    messages: Many[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Many[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""

    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    """OpenAI's; accepted. Nothing is stored, so these have no effect, as with the next three."""
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @model_validator(mode="after")
    def _options_have_what_they_need(self) -> ChatCompletionBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if not self.tools:
            if self.tool_choice not in (None, "none", "auto"):
                raise ValueError("tool_choice needs tools")
            self.tools = self.tool_choice = None  # many clients always send a list, also an empty one
        return self


class CompletionBody(Sampling):
    neutral: ClassVar = {"best_of": (None, 1), "suffix": (None, "")}

    prompt: str | Many[TokenId] | Many[str] | Many[Many[TokenId]]
    max_tokens: int | None = Field(default=None, ge=0, lt=1 << 31)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)

    @model_validator(mode="after")
    def _prompt_is_not_empty(self) -> CompletionBody:
        if not self.prompt or (isinstance(self.prompt, list) and any(item in ("", []) for item in self.prompt)):
            raise ValueError("prompt is empty")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo: true, or there is nothing to answer")
        return self


EXAMPLE = Example(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16},
)


PROMPT = {"prompt": "Once upon a time", "max_tokens": 16}

asks(TASK, EXAMPLE.body, ChatCompletionBody, lambda body, spec: CHAT(GenerationRequest(to_engine(body), "")))
asks(TASK, PROMPT, CompletionBody, lambda body, spec: COMPLETE(GenerationRequest(to_engine(body), "")))


@router.post(EXAMPLE.path, **documented(ChatCompletionBody, "Answer a chat", streams=True, example=EXAMPLE.body))
async def chat_completions(request: Request) -> Response:
    """The next message of a chat, whole or as server-sent events."""
    body = await read_body(request, ChatCompletionBody)
    services: Services = request.app.state.services
    spec = services.resolve(body.model, TASK)
    if body.tools and "tools" not in spec.capabilities:
        raise UnsupportedParameter(
            f"{spec.id} does not support tools. Leave them out or choose another model.", "tools"
        )
    check_names(body)
    return await generate(request, spec, CHAT, body)


@router.post(
    "/v1/completions",
    **documented(CompletionBody, "Continue a text", streams=True, example=PROMPT),
)
async def completions(request: Request) -> Response:
    """How a text goes on, whole or as server-sent events. `prompt` may be texts or token ids."""
    body = await read_body(request, CompletionBody)
    services: Services = request.app.state.services
    return await generate(request, services.resolve(body.model, TASK), COMPLETE, body)


def check_names(body: ChatCompletionBody) -> None:
    """Raises InvalidRequest if the body names a tool that it does not have, or a variable that is not the client's."""
    if isinstance(body.tool_choice, NamedTool) and body.tools:
        name = body.tool_choice.function.name
        if name not in (known := [tool.function.name for tool in body.tools]):
            raise InvalidRequest(
                f"tools has no function {name[:64]!r}. It has {', '.join(known)[:500]}.", "tool_choice.function.name"
            )
    for name in body.chat_template_kwargs or ():
        if name in RESERVED_FOR_TEMPLATES:
            param = f"chat_template_kwargs.{name}"
            raise UnsupportedParameter(f"{param} is not for clients to set. Leave it out.", param)


async def generate(
    request: Request, spec: ModelSpec, method: Stream[GenerationRequest, bytes], body: Sampling
) -> Response:
    """Run a generation and pass on the model's output, which is already in OpenAI's form."""
    services: Services = request.app.state.services
    asked = GenerationRequest(to_engine(body), request.scope["request_id"], len(await request.body()))
    check_sequences(getattr(body, "prompt", None), body.n)
    record_of(request.scope).stream = bool(body.stream)
    events = calling.stream(request, spec, method, asked)
    if body.stream:
        return await open_event_stream(request, events, services.keep_alive_s)
    (document,) = [item async for item in events]
    return Response(document, media_type="application/json")


def to_engine(body: Sampling) -> dict[str, Any]:
    """The client's body, without nulls and without what changes nothing."""
    return body.model_dump(exclude_none=True, exclude_unset=True, by_alias=True, exclude={"model", *WITHOUT_EFFECT})
