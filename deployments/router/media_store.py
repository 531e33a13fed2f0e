"""Stores finished files for clients that want links instead of bytes.

A link has the file's name, which is 144 random bits, its expiry time, and a signature of both. So it can be neither
guessed nor extended. Routers share a folder and the key in it, so each can serve the files of the others.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from fastapi import Request

from deployments.failures import in_the_log
from deployments.settings import RouterArgs
from models import weights
from models.errors import InvalidRequest
from models.media.formats import MEDIA_TYPES, Format

logger = logging.getLogger("ray.serve")

SECRET_VARIABLE = "MEDLEY_MEDIA_SECRET"
ROUTE = "/v1/media"

# Seconds between sweeps of the folder, which remove expired files and the oldest ones over the limit.
SWEEP_S = 1.0

_NAME = re.compile(rf"[A-Za-z0-9_-]{{24}}\.({'|'.join(MEDIA_TYPES)})")


class LinkInvalid(InvalidRequest):
    status = 403
    code = "invalid_signature"


class MediaNotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MediaStore(Protocol):
    async def put(self, data: bytes, kind: Format) -> str:
        """Store a file for a limited time. Returns the path and query of its link."""
        ...

    async def get(self, name: str, expires: str, signature: str) -> tuple[bytes, float]:
        """The file of a link, and the seconds until it expires.

        Raises:
            LinkInvalid, MediaNotFound: the link is not one of ours, or has expired.
        """
        ...


class FolderStore:
    """Files in a folder.

    Args:
        folder: only its owner can read it. Several routers may share one.
        ttl_s: how long a link works.
        limit: bytes in all. Above it, the oldest files are removed first.
        clock: returns Unix time.
    """

    def __init__(self, folder: Path, ttl_s: float, limit: int, clock: Callable[[], float] = time.time):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.ttl_s = ttl_s
        self.limit = limit
        self.clock = clock
        self._secret = secret_of(folder)
        self._swept = 0.0

    async def put(self, data: bytes, kind: Format) -> str:
        name = f"{secrets.token_urlsafe(18)}.{kind}"
        await asyncio.to_thread(self._write, name, data)
        expires = int(self.clock() + self.ttl_s)
        return f"{ROUTE}/{name}?expires={expires}&signature={self.signature(name, str(expires))}"

    async def get(self, name: str, expires: str, signature: str) -> tuple[bytes, float]:
        genuine = self.signature(name, expires)
        if not hmac.compare_digest(genuine.encode(), signature.encode(errors="replace")):
            raise LinkInvalid("This link is not one of ours, or not whole. Use it as it was given.", "signature")
        left = int(expires) - self.clock()
        if left <= 0 or not _NAME.fullmatch(name):
            raise _gone()
        try:
            return await asyncio.to_thread((self.folder / name).read_bytes), left
        except OSError:
            raise _gone() from None

    def signature(self, name: str, expires: str) -> str:
        digest = hmac.digest(self._secret, f"{name}\n{expires}".encode(errors="replace"), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _write(self, name: str, data: bytes) -> None:
        if self.clock() - self._swept >= SWEEP_S:
            self._swept = self.clock()
            self._sweep(room_for=len(data))
        write_whole(self.folder / name, data)

    def _sweep(self, room_for: int) -> None:
        """Remove expired files, then the oldest ones until the folder is within its limit."""
        files = sorted(self._files())
        room = self.limit - room_for - sum(size for _, size, _ in files)
        for written, size, path in files:
            if written + self.ttl_s < self.clock() or room < 0:
                path.unlink(missing_ok=True)
                room += size

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another router has removed it
                    if _NAME.fullmatch(entry.name):
                        status = entry.stat()
                        found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return found


def format_of(name: str) -> Format:
    """The format of a stored file, from its name."""
    return cast(Format, name.rpartition(".")[2])


def folder_store(args: RouterArgs) -> FolderStore | None:
    """The store for a router's settings. If the folder is not writable, the router starts without links."""
    if not args.media_links:
        return None
    folder = args.media_folder or weights.home() / "media"
    try:
        return FolderStore(folder.expanduser(), args.media_ttl_s, int(args.media_limit_mib * (1 << 20)))
    except OSError as error:
        logger.error("no links to files: the media folder cannot be used: %s", in_the_log(error))
        return None


def secret_of(folder: Path) -> bytes:
    """The key that signs links. It comes from the environment, or is drawn once and kept in the folder, where only the
    folder's owner can read it."""
    given = os.environ.get(SECRET_VARIABLE)
    if given:
        return hashlib.sha256(given.encode()).digest()
    file = folder / ".secret"
    if not file.exists():
        drawn = folder / f".{secrets.token_hex(8)}"
        write_whole(drawn, secrets.token_bytes(32))
        with suppress(FileExistsError):  # another router was faster; use its key
            os.link(drawn, file)
        drawn.unlink()
    return file.read_bytes()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically, readable only by its owner."""
    unfinished = path.with_name(f".{path.name}.part")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    unfinished.replace(path)


def link(request: Request, path: str) -> str:
    """The URL of a path on this server, below the address that the client called."""
    return str(request.base_url).rstrip("/") + path


def _gone() -> MediaNotFound:
    return MediaNotFound("There is nothing here, or it has expired. Make it again, or ask for b64_json.")
