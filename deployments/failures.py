"""Failures as the log tells them: what and where, without the error's own text, which may hold a client's words."""

from __future__ import annotations

import os
import traceback


def in_the_log(error: BaseException) -> str:
    """The type of an error and the lines of code it came through; its text too where MEDLEY_LOG_ERROR_TEXT=1."""
    if os.environ.get("MEDLEY_LOG_ERROR_TEXT") == "1":
        return "".join(traceback.format_exception(error))
    frames = "".join(traceback.format_tb(error.__traceback__))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name} (text left out; MEDLEY_LOG_ERROR_TEXT=1 shows it)\n{frames}"
