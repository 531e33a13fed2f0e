"""Reading request bodies: the common base of all wire models."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import InvalidRequest, UnsupportedMediaType, UnsupportedParameter

MOST_FIELDS = 1024


def not_too_many_fields(data: Any) -> Any:
    if isinstance(data, dict) and len(data) > MOST_FIELDS:
        raise ValueError(f"an object here has at most {MOST_FIELDS} fields; there are {len(data)}")
    return data


def is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether the value is among these; 0 is not false, and 1 is not true."""
    return any(type(value) is type(one) and value == one for one in values)


T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list from a client. Validation stops at the first wrong item: a million error reports would take gigabytes."""


class WireModel(BaseModel):
    """A request body. An unknown field is refused by name, never ignored.

    Attributes:
        neutral: OpenAI's own fields that are not supported here, with the values that change nothing. Sent with one of
            those, a field is as if left out; with another one it is refused by name, as unknown fields are.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    _not_too_many_fields = model_validator(mode="before")(not_too_many_fields)

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict) or cls.neutral.keys().isdisjoint(data):
            return data
        return {name: value for name, value in data.items() if not is_one_of(value, cls.neutral.get(name, ()))}


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
        # In JSON a number is a number: nothing is made of "5" or of 1 for true. Forms have texts only.
        return kind.model_validate(document, strict=True)
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
