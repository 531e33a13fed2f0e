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
    """One deploy at a time: Serve takes whole documents, and of two at once one would be lost.

    Raises:
        ClusterError: another process deploys; the message names it.
    """
    home().mkdir(parents=True, exist_ok=True)
    holder = home() / "deploy.holder"  # beside the lock, which is emptied by whoever tries it
    lock = FileLock(home() / "deploy.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ClusterError(f"Another deploy is under way{_who(holder)}. Nothing was done; try again then.") from None
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
