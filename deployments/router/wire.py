"""Reading request bodies: what every endpoint's wire model shares."""

from __future__ import annotations

from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import InvalidRequest, UnsupportedMediaType, UnsupportedParameter


class WireModel(BaseModel):
    """A request body. Unknown fields are refused by name, never dropped."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


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
    raw = await request.body()
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise first_problem(error, kind) from None


def first_problem(error: ValidationError, kind: type[BaseModel]) -> InvalidRequest:
    """The first thing that is wrong with a body, in words for its sender."""
    problem: pydantic_core.ErrorDetails = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = param_path(problem["loc"])
    if problem["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {problem['msg'].removeprefix('Invalid JSON: ')}.")
    if problem["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields) if len(problem["loc"]) == 1 else "those in GET /docs"
        return UnsupportedParameter(f"The parameter {path!r} is not supported here. Supported: {known}.", path)
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return InvalidRequest(f"{path}: {message}." if path else f"{message}.", path)


def param_path(location: tuple[Any, ...]) -> str | None:
    """`("messages", 0, "role")` as `messages[0].role`. Names of union members, which pydantic adds, are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in _UNION_MEMBERS:
            path += f".{part}" if path else part
    return path[:200] or None


_UNION_MEMBERS = {"str", "int", "float", "bool", "list", "dict"}
