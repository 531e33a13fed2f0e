"""Builds the endpoint of a request-and-answer task from a body type and two translators."""

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
from deployments.router.ways import asks
from deployments.router.wire import Body, read_body
from models.specs import ModelSpec
from models.tasks.methods import A, Q, Unary
from models.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Example:
    """A small request that every model of a task can answer. The documentation, `medley doctor`, `/v1/models` and load
    tests use it.

    Attributes:
        body: JSON without `model`. Files in it, such as pictures, are data URLs.
    """

    path: str
    body: dict[str, Any]

    def for_model(self, model: str) -> dict[str, Any]:
        """The body with this model."""
        return {"model": model, **self.body}

    def document(self) -> dict[str, Any]:
        """The form in `/v1/models`."""
        return {"path": self.path, "body": self.body}


@dataclass(frozen=True, slots=True)
class Content:
    """An answer that is not JSON, such as sound.

    Attributes:
        media_type: the `Content-Type`.
        headers: additional facts, such as the duration.
    """

    data: bytes
    media_type: str
    headers: Mapping[str, str] | None = None


class Addressed(Protocol):
    """A body that may name a model."""

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
        example: its path is the endpoint's.
        tasks: the tasks whose models answer it. A body that names no model goes to one of the first task; see
            `Services.choose`.
        to_request: turns the body into the task's request. Raises InvalidRequest for what the model cannot do.
        to_answer: turns the task's result into the client's answer, which may contain numpy arrays. Files are sent as
            base64, or as links if the body is a `Delivery` that asks for them.
        tag, summary, about: for the documentation: the section, a few words, and a sentence or two.
        forms: the body may also be a form with files.
        media_type: of the answer, for the documentation.
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

    for task in tasks:
        asks(task, example.body, body, lambda sent, spec: method(to_request(sent, spec)))
    described = documented(body, summary, forms=forms, example=example.body, answer=media_type)
    described |= {"response_class": Response, "name": summary, "description": about}
    router.add_api_route(example.path, handle, methods=["POST"], **described)
    return router


async def response(
    answer: Mapping[str, Any] | WithFiles | Content, request: Request, store: MediaStore | None = None
) -> Response:
    """Turn an answer into an HTTP response.

    Args:
        store: keeps files that are answered as links; see `store_for_links`.
    """
    if isinstance(answer, WithFiles):
        answer = await in_json(answer, request, store)
    if isinstance(answer, Content):
        return Response(answer.data, headers=dict(answer.headers or {}), media_type=answer.media_type)
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
