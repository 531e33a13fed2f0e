"""Stores finished files for clients that want links instead of bytes.

A link has the file's name, which is 144 random bits, its expiry time, and a signature of both. So it can be neither
guessed nor extended. Routers share a folder and the key in it, so each can serve the files of the others.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, cast

from fastapi import Request

from deployments.failures import in_the_log
from deployments.settings import RouterArgs
from models import weights
from models.errors import InvalidRequest
from models.media.formats import MEDIA_TYPES, Format
from models.secret_file import SecretUnsafe, secret_of_file

logger = logging.getLogger("ray.serve")

SECRET_VARIABLE = "MEDLEY_MEDIA_SECRET"
ROUTE = "/v1/media"

# Seconds between sweeps of the folder, which remove expired files and the oldest ones over the limit.
SWEEP_S = 1.0
# Seconds after which an unfinished file is one that nobody finishes.
PART_S = 600.0
PART = ".part"
# Holds the bytes of all files, and the lock of routers that share the folder.
USAGE = ".usage"

_NAME = re.compile(rf"[A-Za-z0-9_-]{{24}}\.({'|'.join(MEDIA_TYPES)})")


class LinkInvalid(InvalidRequest):
    status = 403
    code = "invalid_signature"


class MediaNotFound(InvalidRequest):
    status = 404
    code = "not_found"


class NotStored(Exception):
    """A file could not be kept. Never shown to a client: the file goes into the answer instead."""


class MediaStore(Protocol):
    async def put(self, data: bytes, kind: Format) -> str:
        """Store a file for a limited time. Returns the path and query of its link.

        Raises:
            NotStored: it cannot be kept.
        """
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
        limit: bytes in all, of all routers that share the folder. Before it is passed, the oldest files are removed.
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
        try:
            await asyncio.to_thread(self._write, name, data)
        except OSError as error:
            logger.error("a file is answered without a link, for it cannot be kept: %s", in_the_log(error))
            raise NotStored from None
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
        """Keep a file. It has its name when it is whole and on the disk; until then, its part has its full size.

        Raises:
            OSError: it cannot be kept. Nothing is left of it.
        """
        if len(data) > self.limit:
            raise OSError(errno.EFBIG, f"{len(data)} bytes are more than media_limit_mib allows for all files")
        part = self.folder / f".{name}.part"
        descriptor = self._part(part, len(data))
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)  # or a power cut could leave zeros under a good name
            with self._locked():  # or who counts the files meanwhile could see both names, or none
                part.rename(self.folder / name)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise

    def _part(self, part: Path, size: int) -> int:
        """Make room, and take it: an open file of this size, to be filled."""
        with self._locked() as usage:
            used = self._used(usage)
            # Every look counts anew, so what a router that died had counted, or a person removed, is soon forgotten.
            if used + size > self.limit or not 0 <= self.clock() - self._swept < SWEEP_S:
                self._swept = self.clock()
                used = self._sweep(room_for=size)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.truncate(descriptor, size)
                os.pwrite(usage, b"%020d" % (used + size), 0)
            except BaseException:
                os.close(descriptor)
                part.unlink()
                raise
            return descriptor

    def _used(self, usage: int) -> int:
        """Bytes of all files as it is written down; the limit where nothing is, so that they are counted."""
        try:
            return int(os.pread(usage, 20, 0))
        except ValueError:
            return self.limit

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file that says how many bytes are used, while no other router changes it."""
        descriptor = os.open(self.folder / USAGE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _sweep(self, room_for: int) -> int:
        """Remove expired files, then the oldest ones until there is room. Returns the bytes of those that stay."""
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        for written, size, path in files:
            unfinished = path.suffix == PART
            expired = written + (PART_S if unfinished else self.ttl_s) < self.clock()
            if expired or (used + room_for > self.limit and not unfinished):
                path.unlink(missing_ok=True)
                used -= size
        if used + room_for > self.limit:
            raise OSError(errno.ENOSPC, "files that are being written take all of media_limit_mib")
        return used

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each was written, its size and where it is; unfinished ones too."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another router has removed it
                    if _NAME.fullmatch(entry.name.removeprefix(".").removesuffix(PART)):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return found


def format_of(name: str) -> Format:
    """The format of a stored file, from its name."""
    return cast(Format, name.rpartition(".")[2])


def folder_store(args: RouterArgs) -> FolderStore | None:
    """The store for a router's settings. If its folder cannot be used or its key is not safe, there are no links."""
    if not args.media_links:
        return None
    folder = args.media_folder or weights.home() / "media"
    try:
        return FolderStore(folder.expanduser(), args.media_ttl_s, int(args.media_limit_mib * (1 << 20)))
    except SecretUnsafe as error:
        logger.error("no links to files: their key is not safe: %s", error)
    except OSError as error:
        logger.error("no links to files: the media folder cannot be used: %s", in_the_log(error))
    return None


def secret_of(folder: Path) -> bytes:
    """The key that signs links. It comes from the environment, or is drawn once and kept in the folder, where only the
    folder's owner can read it.

    Raises:
        SecretUnsafe, OSError: it cannot be kept there.
    """
    given = os.environ.get(SECRET_VARIABLE)
    if given:
        return hashlib.sha256(given.encode()).digest()
    return secret_of_file(folder / ".key").encode()


def link(request: Request, path: str) -> str:
    """The URL of a path on this server, below the address that the client called."""
    return str(request.base_url).rstrip("/") + path


def _gone() -> MediaNotFound:
    return MediaNotFound("There is nothing here, or it has expired. Make it again, or ask for b64_json.")
