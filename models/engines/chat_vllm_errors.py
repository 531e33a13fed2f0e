"""vLLM's exceptions as errors for clients, by their class.

vLLM turns exceptions into error values of its own, for a web server that it does not have here. It would take every
ValueError for the client's mistake and pass on its text. So exceptions are kept as exceptions, and translated here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMUnprocessableEntityError, VLLMValidationError

from models.errors import ContextLengthExceeded, InvalidRequest, RateLimited, ServingError

logger = logging.getLogger(__name__)

LONGEST_MESSAGE = 500
# vLLM gives these names to a prompt that is too long. For one that leaves no room for an answer it gives none.
TOO_LONG = ("input_tokens", "input_text")
NO_ROOM = "maximum model length"


def refusal(error: Exception, prompt: str | None) -> ServingError | None:
    """The client's error for an exception that vLLM raised before it began to answer. None if it is a failure.

    Args:
        prompt: the field that holds the prompt.
    """
    refused: ServingError | None = None
    match error:
        case GracefulHTTPError():
            refused = RateLimited("The model has too many requests. Try again.", "model", 1)
        case VLLMValidationError() | VLLMUnprocessableEntityError():
            refused = of_vllm(error, prompt)
        case ValidationError():
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            refused = InvalidRequest(f"{first_line(first['msg'])}.", ".".join(map(str, first["loc"])) or None)
        case TemplateError():
            refused = InvalidRequest(
                "These messages do not fit the model's chat template. Check the order of their roles, and "
                "chat_template_kwargs.",
                prompt,
            )
        case (
            VLLMClientError() | ValueError() | TypeError() | OverflowError() | NotImplementedError() | RecursionError()
        ):
            # vLLM's libraries raise these for what they cannot read. Their messages are for programmers.
            logger.info("vLLM refused a request: %s", type(error).__name__)
            refused = InvalidRequest(
                "The model cannot read this request. Check the types and values of its fields.", prompt
            )
    return refused


def of_vllm(error: VLLMValidationError | VLLMUnprocessableEntityError, prompt: str | None) -> InvalidRequest:
    """vLLM's own error for clients, whose message is written for them."""
    message = f"{first_line(str(error.args[0]))}."  # str() of it would add the wrong value
    if error.parameter in TOO_LONG or NO_ROOM in message:
        return ContextLengthExceeded(message, prompt)
    return InvalidRequest(message, error.parameter)


def raising(create_error_response: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's function that makes error values. The new one makes them of texts only, and raises exceptions again."""

    def create(message: str | Exception, *args: Any, **options: Any) -> Any:
        if isinstance(message, Exception):
            raise message
        return create_error_response(message, *args, **options)

    return create


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:LONGEST_MESSAGE].rstrip(".")


def without_traceback(record: logging.LogRecord) -> bool:
    """A filter of logs: vLLM logs the exceptions of streams, whose texts may hold a client's words."""
    record.exc_info = record.exc_text = None
    return True
