"""Reading request bodies: what every endpoint's wire model shares."""

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
"""A list from a client, read up to its first wrong item: describing a million of them would take gigabytes."""


class WireModel(BaseModel):
    """A request body. Unknown fields are refused by name, never dropped."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    _not_too_many_fields = model_validator(mode="before")(not_too_many_fields)


Body = TypeVar("Body", bound=WireModel)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The body as a wire model.

    Raises:
        UnsupportedMediaType: it is not sent as JSON.
        InvalidRequest: it is not JSON, or a field has a wrong type or value; `param` says which.
        UnsupportedParameter: a field this endpoint does not know.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
    try:
        # pydantic's own parser of JSON takes NaN and Infinity, which JSON does not have.
        document = pydantic_core.from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise first_problem(error, kind, document) from None


def first_problem(error: ValidationError, kind: type[BaseModel], document: Any) -> InvalidRequest:
    """The first thing that is wrong with a body, in words for its sender."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [path_of(problem, document) for problem in problems]
    # A union has a problem for each member. The member that the client meant is the one that reads furthest.
    of_first = [index for index, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    chosen = max(of_first, key=lambda index: len(paths[index]))
    problem, path = problems[chosen], as_text(paths[chosen])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields) if len(paths[chosen]) == 1 else "those in GET /docs"
        return UnsupportedParameter(f"The parameter {path!r} is not supported here. Supported: {known}.", path)
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return InvalidRequest(f"{path}: {message}." if path else f"{message}.", path or None)


def path_of(problem: pydantic_core.ErrorDetails, document: Any) -> list[str | int]:
    """Keys and indices that lead to what is wrong. Names of union members, which pydantic adds, are left out: they are
    not in the document."""
    path: list[str | int] = []
    for part in problem["loc"]:
        with suppress(TypeError, LookupError):
            document = document[part]
            path.append(part)
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    return path


def as_text(path: list[str | int]) -> str:
    """`["messages", 0, "role"]` as `messages[0].role`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")[:200]
