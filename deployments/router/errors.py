"""Errors as responses, in OpenAI's form."""

from __future__ import annotations

import logging
import math
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from deployments.failures import in_the_log
from deployments.router.record import record_of
from models.errors import InvalidRequest, ServingError

logger = logging.getLogger("ray.serve")


def error_body(error: ServingError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: ServingError) -> Response:
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return Response(orjson.dumps(error_body(error)), error.status, headers, "application/json")


def error_event(error: ServingError) -> bytes:
    """The last event of a stream that broke."""
    return b"data: " + orjson.dumps(error_body(error)) + b"\n\n"


class _NoSuchRoute(InvalidRequest):
    code = "not_found"


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServingError)
    async def serving_error(request: HTTPConnection, error: ServingError) -> Response:
        if request.scope["type"] == "websocket":
            raise error  # handled by WebSockets, which knows whether to send an answer or a close frame
        record_of(request.scope).failed(error)
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        messages = {
            404: f"There is nothing at {request.url.path[:200]}. GET /docs lists what there is.",
            405: "This method is not allowed here; the header Allow says which are. GET /docs lists what there is.",
        }
        ours = _NoSuchRoute(messages.get(error.status_code, "The request cannot be served."))
        record_of(request.scope).failed(ours)
        response = error_response(ours)
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        if "GET" in response.headers.get("allow", "").split(", "):
            response.headers["allow"] += ", HEAD"  # see Equivalents
        return response


def unexpected(error: BaseException, request_id: str) -> ServingError:
    """The client's view of a bug in Medley; details are in the log."""
    logger.error("request %s failed unexpectedly: %s", request_id, in_the_log(error))
    return ServingError(f"Something went wrong in the server. Tell its operator the request id {request_id}.")
