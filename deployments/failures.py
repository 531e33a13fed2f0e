"""Errors for the log: their type and place, without their message, which may contain a client's words."""

from __future__ import annotations

import os
import traceback


def in_the_log(error: BaseException) -> str:
    """An error's type and traceback, with its message only if MEDLEY_LOG_ERROR_TEXT=1."""
    if os.environ.get("MEDLEY_LOG_ERROR_TEXT") == "1":
        return "".join(traceback.format_exception(error))
    frames = "".join(traceback.format_tb(error.__traceback__))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name} (text left out; MEDLEY_LOG_ERROR_TEXT=1 shows it)\n{frames}"
