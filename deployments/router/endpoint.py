"""An endpoint of a task whose models give one answer to a request, from a body and two translators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import orjson
from fastapi import APIRouter, Request, Response

from deployments.router import calling
from deployments.router.files import WithFiles, in_json, store_for_links
from deployments.router.media_store import MediaStore
from deployments.router.multipart import read_form_or_body
from deployments.router.openapi import documented
from deployments.router.services import Services
from deployments.router.wire import Body, read_body
from models.specs import ModelSpec
from models.tasks.methods import A, Q, Unary
from models.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Example:
    """A request that every model of a task can answer, quickly. The documentation shows it, `medley doctor` sends it,
    `/v1/models` tells of it, and a load test repeats it.

    Attributes:
        body: as JSON, without `model`; what is encoded in it, such as a picture, is a data URL.
    """

    path: str
    body: dict[str, Any]

    def for_model(self, model: str) -> dict[str, Any]:
        """The body, for this model."""
        return {"model": model, **self.body}

    def document(self) -> dict[str, Any]:
        """As `/v1/models` tells it."""
        return {"path": self.path, "body": self.body}


@dataclass(frozen=True, slots=True)
class Content:
    """An answer that is not JSON, such as sound.

    Attributes:
        media_type: as in `Content-Type`.
        headers: what there is to say beside it, such as how long it is.
    """

    data: bytes
    media_type: str
    headers: Mapping[str, str] | None = None


class Addressed(Protocol):
    """A body that names a model, or leaves the choice."""

    @property
    def model(self) -> str | None: ...


def endpoint(
    example: Example,
    tasks: Task[Any] | tuple[Task[Any], ...],
    method: Unary[Q, A],
    body: type[Body],
    *,
    to_request: Callable[[Body, ModelSpec], Q],
    to_answer: Callable[[A, Body, ModelSpec], Mapping[str, Any] | WithFiles | Content],
    tag: str,
    summary: str,
    about: str = "",
    forms: bool = False,
    media_type: str = "application/json",
) -> APIRouter:
    """A router with one endpoint.

    Args:
        example: the path, and a body for it.
        tasks: whose models answer it. A body without a model is for the first that is ready.
        to_request: the client's body as the task's request. It refuses what the model cannot do: InvalidRequest.
        to_answer: the task's result as the client's answer. Arrays of numpy may be in it. Files go out as base64, or as
            links where the body is a `Delivery` and asks for them.
        summary, about: for the documentation: a few words, and a sentence or two.
        forms: the body may be a form with files, too.
        media_type: of the answer.
    """
    tasks = tasks if isinstance(tasks, tuple) else (tasks,)
    router = APIRouter(tags=[tag])
    read = read_form_or_body if forms else read_body

    async def handle(request: Request) -> Response:
        sent = await read(request, body)
        store = store_for_links(request, sent)
        services: Services = request.app.state.services
        spec = services.asked_for(cast(Addressed, sent).model, *tasks)
        result = await calling.call(request, spec, method, to_request(sent, spec))
        return await response(to_answer(result, sent, spec), request, store)

    described = documented(body, summary, forms=forms, example=example.body, answer=media_type)
    described |= {"response_class": Response, "name": summary, "description": about}
    router.add_api_route(example.path, handle, methods=["POST"], **described)
    return router


async def response(
    answer: Mapping[str, Any] | WithFiles | Content, request: Request, store: MediaStore | None = None
) -> Response:
    """An answer as HTTP has it.

    Args:
        store: takes the files of an answer to which there are links; see `store_for_links`.
    """
    if isinstance(answer, WithFiles):
        answer = await in_json(answer, request, store)
    if isinstance(answer, Content):
        return Response(answer.data, headers=dict(answer.headers or {}), media_type=answer.media_type)
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
