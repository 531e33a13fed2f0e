"""Reading request bodies: the common base of all wire models."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import InvalidRequest, UnsupportedMediaType, UnsupportedParameter

MOST_FIELDS = 1024


def not_too_many_fields(data: Any) -> Any:
    if isinstance(data, dict) and len(data) > MOST_FIELDS:
        raise ValueError(f"an object here has at most {MOST_FIELDS} fields; there are {len(data)}")
    return data


T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list from a client. Validation stops at the first wrong item: a million error reports would take gigabytes."""


class WireModel(BaseModel):
    """A request body. An unknown field is refused by name, never ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    _not_too_many_fields = model_validator(mode="before")(not_too_many_fields)


Body = TypeVar("Body", bound=WireModel)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Read the body as a wire model.

    Raises:
        UnsupportedMediaType: the body is not sent as JSON.
        InvalidRequest: the body is not JSON, or a field has a wrong type or value; `param` names it.
        UnsupportedParameter: the endpoint does not know a field.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
    try:
        # pydantic's own JSON parser would accept NaN and Infinity, which are not JSON.
        document = pydantic_core.from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise first_problem(error, kind, document) from None


def first_problem(error: ValidationError, kind: type[BaseModel], document: Any) -> InvalidRequest:
    """The first mistake in a body, as an error for the client."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [path_of(problem, document) for problem in problems]
    # A union reports a problem for each member. The client probably meant the member that was read furthest.
    of_first = [index for index, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    chosen = max(of_first, key=lambda index: len(paths[index]))
    problem, path = problems[chosen], as_text(paths[chosen])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields) if len(paths[chosen]) == 1 else "those in GET /docs"
        return UnsupportedParameter(f"The parameter {path!r} is not supported here. Supported: {known}.", path)
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return InvalidRequest(f"{path}: {message}." if path else f"{message}.", path or None)


def path_of(problem: pydantic_core.ErrorDetails, document: Any) -> list[str | int]:
    """The keys and indices that lead to a mistake, without the names of union members that pydantic adds, which are not
    in the document."""
    path: list[str | int] = []
    for part in problem["loc"]:
        with suppress(TypeError, LookupError):
            document = document[part]
            path.append(part)
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    return path


def as_text(path: list[str | int]) -> str:
    """`["messages", 0, "role"]` becomes `messages[0].role`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")[:200]
