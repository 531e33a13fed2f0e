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
from medley.local.home import make_home


@contextlib.contextmanager
def only_writer() -> Iterator[None]:
    """Allow one deploy at a time. Serve takes whole documents, so one of two at once would be lost.

    Raises:
        ClusterError: another process is deploying, and the message names it; or MEDLEY_HOME cannot be written to.
    """
    with _written():
        holder = make_home() / "deploy.holder"  # not in the lock file, which each attempt to lock it empties
        lock = FileLock(holder.with_name("deploy.lock"))
    try:
        with _written():
            lock.acquire(timeout=0)
            holder.write_text(json.dumps({"pid": os.getpid(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}))
    except Timeout:
        message = f"Another deploy is under way{_who(holder)}. Nothing was done. Try again when it is over."
        raise ClusterError(message) from None
    except ClusterError:
        lock.release()
        raise
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise ClusterError(f"MEDLEY_HOME cannot be written to: {error}. Nothing was done.") from None


def _who(holder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads(holder.read_text())
        return f" (process {told['pid']}, since {told['since']})"
    return ""
