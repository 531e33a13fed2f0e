"""One deploy at a time on this machine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from medley.local.cluster import ClusterError
from medley.local.home import home


@contextlib.contextmanager
def only_writer() -> Iterator[None]:
    """Allow one deploy at a time. Serve takes whole documents, so one of two at once would be lost.

    Raises:
        ClusterError: another process is deploying. The message names it.
    """
    home().mkdir(parents=True, exist_ok=True)
    holder = home() / "deploy.holder"  # not in the lock file, which each attempt to lock it empties
    lock = FileLock(home() / "deploy.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        message = f"Another deploy is under way{_who(holder)}. Nothing was done. Try again when it is over."
        raise ClusterError(message) from None
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _who(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads(holder.read_text())
        return f" (process {told['pid']}, since {told['since']})"
    return ""
