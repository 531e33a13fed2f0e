"""Reading bodies that may be forms with files (multipart/form-data) as well as JSON.

A form becomes the same document as JSON: `size` is a text, `image` a file, `image[]` or a repeated name a list, and
`loras[][name]` with `loras[][weight]` a list of objects. Wire models convert texts to numbers.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from deployments.router.wire import Body, first_problem, read_body
from models.errors import InvalidRequest, UnsupportedMediaType

MOST_FILES = 32
MOST_FORM_FIELDS = 200

# The middleware limits the whole body, and so each part too.
_UNLIMITED = 1 << 40

_NAME = re.compile(r"([^\[\]]{1,100})((?:\[[^\[\]]{0,100}\]){0,2})")
_KEYS = re.compile(r"\[([^\[\]]*)\]")


class _InMemory(MultiPartParser):
    """Keeps everything in memory: nothing that a client sends is written to a disk."""

    spool_max_size = _UNLIMITED


async def read_form_or_body(request: Request, kind: type[Body]) -> Body:
    """Read a body, a form or JSON, as a wire model.

    Raises:
        UnsupportedMediaType: it is neither.
        InvalidRequest, UnsupportedParameter: see `read_body`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        document = await read_form(request)
    elif media_type == "application/json" or media_type.endswith("+json"):
        return await read_body(request, kind)
    else:
        raise UnsupportedMediaType("Send the body as multipart/form-data or as application/json.")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise first_problem(error, kind, document) from None


async def read_form(request: Request) -> dict[str, Any]:
    """A form as a document: texts as str, files as bytes."""
    parser = _InMemory(
        request.headers,
        request.stream(),
        max_files=MOST_FILES,
        max_fields=MOST_FORM_FIELDS,
        max_part_size=_UNLIMITED,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, LookupError, ValueError):
        raise InvalidRequest(
            f"The body is not a whole multipart form, or has over {MOST_FILES} files or {MOST_FORM_FIELDS} fields."
        ) from None
    document: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            put(document, name, await value.read() if isinstance(value, UploadFile) else value)
    finally:
        await form.close()
    items_are_complete(document)
    return document


def put(document: dict[str, Any], name: str, value: str | bytes) -> None:
    """Set the place in the document that a form's field names.

    Raises:
        InvalidRequest: no field uses brackets like these, or two names contradict each other.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise InvalidRequest(f"The form field {name[:100]!r} has a name that no field here has.", name[:100])
    base, keys = found[1], _KEYS.findall(found[2])
    match keys:
        case []:
            document[base] = value if base not in document else [*_as(list, document, base, spread=True), value]
        case [""]:
            document[base] = [*_as(list, document, base), value]
        case ["", key]:
            items = document[base] = _as(list, document, base)
            # The n-th weight belongs to the n-th name, in whatever order names and weights are mixed.
            free = next((item for item in items if isinstance(item, dict) and key not in item), None)
            if free is None:
                items.append(free := {})
            free[key] = value
        case [key]:
            document[base] = {**_as(dict, document, base), key: value}
        case _:
            raise InvalidRequest(f"The form field {name[:100]!r} has a name that no field here has.", name[:100])


def items_are_complete(document: dict[str, Any]) -> None:
    """Raises InvalidRequest if it is unclear which object of a list a value belongs to."""
    for base, items in document.items():
        if isinstance(items, list) and len({frozenset(item) for item in items if isinstance(item, dict)}) > 1:
            raise InvalidRequest(
                f"The objects of {base!r} do not all have the same fields. Send them so, or {base!r} as JSON.", base
            )


def _as(kind: type, document: dict[str, Any], base: str, spread: bool = False) -> Any:
    """The value under a name, which must be of this kind. With `spread`, a single value becomes a list."""
    held = document.get(base, kind())
    if isinstance(held, kind):
        return held
    if spread and isinstance(held, str | bytes):
        return [held]
    raise InvalidRequest(f"The form has {base!r} in two ways. Send it in one.", base)
