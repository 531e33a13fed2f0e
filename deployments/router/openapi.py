"""The OpenAPI description. Handlers read bodies themselves, so the schemas that FastAPI cannot know are added here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
BINARY = {"type": "string", "format": "binary"}
ERROR_REF = "#/components/schemas/Error"
ERRORS = {
    "400": "The request is wrong; `param` says where.",
    "404": "There is no such model; the nearest names are given.",
    "413": "The body is too large.",
    "415": "The body is not sent as JSON, or as a form where one is taken.",
    "422": "The answer would come later than promised even if the model did nothing else; ask for less.",
    "429": "The answer would come later than promised, or the model's queue is full; see Retry-After.",
    "503": "The model is not running; see Retry-After.",
    "504": "The deadline passed.",
}

_bodies: dict[str, type[BaseModel]] = {}


def documented(
    body: type[BaseModel],
    summary: str,
    *,
    streams: bool = False,
    forms: bool = False,
    example: Mapping[str, Any] | None = None,
    answer: str = "application/json",
) -> dict[str, Any]:
    """Arguments for a route decorator that describe the body, the answer and the errors.

    Args:
        example: a body without a model.
        answer: the media type of the answer.
    """
    _bodies[body.__name__] = body
    schema = {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}
    media_types = ["multipart/form-data", "application/json"] if forms else ["application/json"]
    sent: dict[str, Any] = {media_type: dict(schema) for media_type in media_types}
    if example is not None:
        sent["application/json"]["example"] = {"model": "MODEL", **example}
    is_json = answer == "application/json"
    content: dict[str, Any] = {answer: {"schema": {"type": "object"} if is_json else BINARY}}
    if streams:
        # No schema, because tools disagree on whether it describes the whole text or one event.
        content["text/event-stream"] = {}
    return {
        "summary": summary,
        "responses": {
            200: {"description": "The answer, in OpenAI's form.", "content": content},
            **{int(status): refusal(text) for status, text in ERRORS.items()},
        },
        "openapi_extra": {
            "requestBody": {"required": True, "content": sent},
        },
    }


def refusal(description: str) -> dict[str, Any]:
    """The description of an error for a route's `responses`."""
    return {"description": description, "content": {"application/json": {"schema": {"$ref": ERROR_REF}}}}


def describe(app: FastAPI) -> None:
    """Add the schemas that are missing in `/openapi.json`."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            _, schemas = models_json_schema(
                [(body, "validation") for body in _bodies.values()], ref_template="#/components/schemas/{model}"
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components |= {**schemas["$defs"], "Error": ERROR_SCHEMA}
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
