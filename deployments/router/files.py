"""Files in answers, such as pictures: in the answer itself as base64, or as links that expire."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request

from deployments.router.media_store import MediaStore, NotStored, link
from deployments.router.services import Services
from deployments.router.wire import WireModel
from models.errors import InvalidRequest
from models.media.formats import Format


class Delivery(WireModel):
    """The part of a body that says how files are returned."""

    response_format: Literal["b64_json", "url"] | None = None
    """`url` gives links that expire."""


@dataclass(frozen=True, slots=True)
class File:
    """
    Attributes:
        about: fields of the answer beside the file, such as its seed.
    """

    data: bytes
    format: Format
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WithFiles:
    """An answer in the form of OpenAI's images: `files` become its `data`, `document` is the rest."""

    files: Sequence[File]
    document: Mapping[str, Any]


def store_for_links(request: Request, body: WireModel) -> MediaStore | None:
    """The store for an answer's files; None if they go into the answer itself. Called before any work is done.

    Raises:
        InvalidRequest: the client wants links, but this cluster has none.
    """
    if not isinstance(body, Delivery) or body.response_format != "url":
        return None
    services: Services = request.app.state.services
    if services.media is None:
        raise InvalidRequest("This cluster has no links to files. Ask for b64_json.", "response_format")
    return services.media


async def in_json(answer: WithFiles, request: Request, store: MediaStore | None) -> dict[str, Any]:
    """The answer as JSON, with its files as base64, or with links to them in the store."""
    data = [await _delivered(file, request, store) | dict(file.about) for file in answer.files]
    return {"created": int(time.time()), "data": data, **answer.document}


async def _delivered(file: File, request: Request, store: MediaStore | None) -> dict[str, str]:
    """A link to the file, or the file itself. A file that cannot be kept is answered itself, too: it would be lost."""
    if store is not None:
        with suppress(NotStored):
            return {"url": link(request, await store.put(file.data, file.format))}
    return {"b64_json": as_base64(file.data)}


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
