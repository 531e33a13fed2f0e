"""Reading bodies that may be forms with files (multipart/form-data) as well as JSON.

A form becomes the same document as JSON: `size` is a text, `image` a file, `image[]` or a repeated name a list, and
`loras[][name]` with `loras[][weight]` a list of objects. Wire models convert texts to numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from deployments.router.wire import (
    Body,
    content_type,
    in_steps,
    is_json,
    must_be_utf_8,
    must_not_be_too_much,
    read_body,
    validated,
    with_parameters,
)
from models.errors import InvalidRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_FILES = 32
MOST_FORM_FIELDS = 200

# A part of such a type is a file also without a file name.
FILES = ("image/", "audio/", "video/", "application/octet-stream")
# Parts are sent as they are: https://www.rfc-editor.org/rfc/rfc7578#section-4.7
AS_IT_IS = (b"7bit", b"8bit", b"binary")
CHARSET = "_charset_"

_NAME = re.compile(r"([^\[\]]{1,100})((?:\[[^\[\]]{0,100}\]){0,2})")
_KEYS = re.compile(r"\[([^\[\]]*)\]")


async def read_form_or_body(request: Request, kind: type[Body]) -> Body:
    """Read a body, a form or JSON, as a wire model.

    Raises:
        UnsupportedMediaType: it is neither, or not in UTF-8.
        InvalidRequest, UnsupportedParameter, PayloadTooLarge: see `read_body`.
    """
    media_type, options = content_type(request)
    if is_json(media_type):
        return await read_body(request, kind)
    if media_type != "multipart/form-data":
        raise UnsupportedMediaType("Send the body as multipart/form-data or as application/json.")
    must_be_utf_8(options.get(b"charset"))
    boundary = options.get(b"boundary", b"")
    return await in_steps(
        lambda raw: validated(document_of_form(raw, boundary), kind, strict=False), await request.body()
    )


def document_of_form(raw: bytes, boundary: bytes) -> dict[str, Any]:
    """A form as a document: texts as str, files as bytes.

    Raises:
        InvalidRequest: the form is not whole, has too many parts, or a part cannot be read.
        UnsupportedMediaType: a text is not in UTF-8, or a part is encoded.
        PayloadTooLarge: a text that may be JSON has too many values.
    """
    document: dict[str, Any] = {}
    for part in parts_of(raw, boundary):
        part.must_be_as_it_is()
        if part.name == CHARSET:  # https://www.rfc-editor.org/rfc/rfc7578#section-4.6
            must_be_utf_8(bytes(part.data))
        else:
            put(document, part.name, bytes(part.data) if part.is_file else text_of(part))
    items_are_complete(document)
    return document


@dataclass(slots=True)
class Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False

    def read_headers(self) -> None:
        """Raises InvalidRequest: the part has no name."""
        _, options = with_parameters(self.headers.get(b"content-disposition", b""))
        try:
            self.name = options[b"name"].decode()
        except (KeyError, UnicodeDecodeError):
            raise InvalidRequest("A part of the form has no name in UTF-8 in its Content-Disposition.") from None
        media_type = self.headers.get(b"content-type", b"").decode("latin-1").lower()
        self.is_file = b"filename" in options or media_type.startswith(FILES)

    def must_be_as_it_is(self) -> None:
        """Raises UnsupportedMediaType if a header says that the data are encoded."""
        _, options = with_parameters(self.headers.get(b"content-type", b""))
        if not self.is_file:
            must_be_utf_8(options.get(b"charset"))
        if self.headers.get(b"content-transfer-encoding", b"binary").strip().lower() not in AS_IT_IS:
            raise UnsupportedMediaType("Send the parts of a form as they are, without a Content-Transfer-Encoding.")


def text_of(part: Part) -> str:
    must_not_be_too_much(bytes(part.data))
    try:
        return part.data.decode()
    except UnicodeDecodeError:
        name = part.name[:100]
        raise InvalidRequest(
            f"The form field {name!r} is not a text in UTF-8. A file needs a filename.", name
        ) from None


class _Parts:
    """Collects the parts that MultipartParser finds."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.files = 0
        self.whole = False
        self.header, self.value = bytearray(), bytearray()

    def on_part_begin(self) -> None:
        self.parts.append(Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[bytes(self.header).lower()] = bytes(self.value)
        self.header, self.value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        self.parts[-1].read_headers()
        self.files += self.parts[-1].is_file
        if self.files > MOST_FILES or len(self.parts) - self.files > MOST_FORM_FIELDS:
            raise InvalidRequest(f"The form has over {MOST_FILES} files or {MOST_FORM_FIELDS} fields.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def on_end(self) -> None:
        self.whole = True


def parts_of(raw: bytes, boundary: bytes) -> list[Part]:
    """The parts of a form.

    Raises:
        InvalidRequest: it is not whole, has too many parts, or one without a name.
    """
    found = _Parts()
    callbacks: MultipartCallbacks = {
        "on_part_begin": found.on_part_begin,
        "on_header_field": found.on_header_field,
        "on_header_value": found.on_header_value,
        "on_header_end": found.on_header_end,
        "on_headers_finished": found.on_headers_finished,
        "on_part_data": found.on_part_data,
        "on_end": found.on_end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(without_preamble(raw, boundary))
    except FormParserError:
        found.whole = False
    if not boundary or not found.whole:
        raise InvalidRequest("The body is not a whole multipart form: its end, a boundary or a header is broken.")
    return found.parts


def without_preamble(raw: bytes, boundary: bytes) -> bytes:
    """The form without what stands before it, which https://www.rfc-editor.org/rfc/rfc2046#section-5.1.1 ignores."""
    if raw.startswith(b"--" + boundary):
        return raw
    return raw[raw.find(b"\r\n--" + boundary) :]  # the parser refuses what has no boundary


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
