"""What must never happen, and how an attempt shows that it did."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.records import Record


def lost(record: Record) -> str:
    """Neither answered nor refused: the server took it, and the connection ended with nothing."""
    taken = record.sent is not None and record.status == 0
    return record.why or "no answer" if taken and not gone(record) else ""


def incomplete(record: Record) -> str:
    return record.why or "cut off" if record.status == 200 and not record.complete and not gone(record) else ""


def server_error(record: Record) -> str:
    return record.why if record.status >= 500 and record.status != 503 else ""


def wrong_answer(record: Record) -> str:
    return record.why if record.status == 200 and record.complete else ""


def refused_without_time(record: Record) -> str:
    return "no Retry-After" if record.refused and record.retry_after is None else ""


def given_up(record: Record) -> str:
    return record.why if record.given_up else ""


def gone(record: Record) -> bool:
    """It was the client that ended it."""
    return record.left or record.given_up


# Faults of the server. None of these depends on how fast a machine is, so one is one too many.
COUNTERS: dict[str, Callable[[Record], str]] = {
    "lost": lost,
    "incomplete_streams": incomplete,
    "server_errors": server_error,
    "wrong_answers": wrong_answer,
    "refusals_without_retry_after": refused_without_time,
}
# What clients do. It is counted and told, and is no fault by itself; a scenario may say that it must not happen.
OF_CLIENTS: dict[str, Callable[[Record], str]] = {"given_up": given_up}
COUNTABLE = COUNTERS | OF_CLIENTS
