"""Reading request bodies: the common base of all wire models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from python_multipart.multipart import parse_options_header

from models.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType, UnsupportedParameter

MOST_FIELDS = 1024
# Of a whole document. To make a list or an object takes a hundred times as long as to make a number: a body of 8 MiB
# that is nothing but `[]` would take the router's only loop for seconds. 2,048 messages with ten objects each fit, and
# so do 2,048 inputs of 1,024 token ids.
MOST_CONTAINERS = 1 << 16
MOST_VALUES = 1 << 21
# Bytes. Smaller bodies are read at once. Larger ones are read in a thread: each step keeps the loop waiting, because it
# holds the GIL, but between the steps the loop has its turn.
AT_ONCE = 1 << 16
UTF_8 = (b"utf-8", b"utf8", b"us-ascii")
# Of a header. To read them takes time with the square of their number: 15 KiB of `;` take 0.4 s.
MOST_PARAMETERS = 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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


Read = TypeVar("Read")


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Read the body as a wire model.

    Raises:
        UnsupportedMediaType: the body is not sent as JSON, or not in UTF-8.
        PayloadTooLarge: it has too many values; see `document_of`.
        InvalidRequest: the body is not JSON, or a field has a wrong type or value; `param` names it.
        UnsupportedParameter: the endpoint does not know a field.
    """
    media_type, options = content_type(request)
    if not is_json(media_type):
        raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
    must_be_utf_8(options.get(b"charset"))
    return await in_steps(lambda raw: validated(document_of(raw), kind, strict=True), await request.body())


def content_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    """The body's media type, in small letters, and its parameters."""
    media_type, options = with_parameters(request.headers.get("content-type", ""))
    return media_type.decode("latin-1").strip().lower(), options


def with_parameters(header: str | bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A header's value, and its parameters. Raises InvalidRequest if it has too many."""
    parameters = header.count(b";") if isinstance(header, bytes) else header.count(";")
    if parameters > MOST_PARAMETERS:
        raise InvalidRequest(
            f"A header that describes the body, or a part of it, has over {MOST_PARAMETERS} parameters."
        )
    return parse_options_header(header)


def is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


def must_be_utf_8(charset: bytes | None) -> None:
    """Raises UnsupportedMediaType for any other charset. A codec that a client names is never looked up: some take
    hours for a megabyte."""
    if charset is not None and charset.lower() not in UTF_8:
        raise UnsupportedMediaType("Send texts as UTF-8, and no other charset.")


async def in_steps(read: Callable[[bytes], Read], raw: bytes) -> Read:
    """Read a body; a large one in a thread."""
    return read(raw) if len(raw) <= AT_ONCE else await asyncio.to_thread(read, raw)


def document_of(raw: bytes) -> Any:
    """JSON as Python's values.

    Raises:
        PayloadTooLarge: it has more values than the bounds above.
        InvalidRequest: it is not JSON.
    """
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    must_not_be_too_much(raw)
    try:
        # pydantic's own JSON parser would accept NaN and Infinity, which are not JSON.
        return pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None


def must_not_be_too_much(raw: bytes) -> None:
    """Raises PayloadTooLarge for JSON with too many values."""
    if too_much(raw) and (found := too_much(without_strings(raw))):
        raise PayloadTooLarge(f"The body has over {found}. Send less at a time.")


def too_much(raw: bytes) -> str | None:
    """The bound that JSON would be over if it had no strings with brackets, colons and commas in them."""
    if raw.count(b"[") + raw.count(b"{") + raw.count(b":") > MOST_CONTAINERS:
        return f"{MOST_CONTAINERS:,} lists, objects and fields"
    return f"{MOST_VALUES:,} values" if raw.count(b",") > MOST_VALUES else None


NO_STRUCTURE = bytes(set(range(256)) - set(b'"[{:,'))


def without_strings(raw: bytes) -> bytes:
    """What gives JSON its structure. Each step is one pass over the bytes in C."""
    unescaped = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    structure = unescaped.translate(None, NO_STRUCTURE).replace(b'""', b"")
    return b"".join(structure.split(b'"')[::2])


def validated(document: Any, kind: type[Body], strict: bool) -> Body:
    """A document as a wire model.

    Args:
        strict: a number is a number: nothing is made of "5" or of 1 for true. So it is in JSON; forms have texts only.

    Raises:
        InvalidRequest, UnsupportedParameter: it is none.
    """
    try:
        return kind.model_validate(document, strict=strict)
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
