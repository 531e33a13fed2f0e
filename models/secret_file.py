"""A secret that lies in a file of its own: a token, or the key that links are signed with."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

SHORTEST, LONGEST = 32, 4096
# Other processes may make the file, or remove it, at the same time.
TRIES = 10


class SecretUnsafe(ValueError):
    """The file cannot be trusted with a secret; the message says why and what to do."""


def secret_of_file(file: Path) -> str:
    """The secret in a file, made on first use: 64 hexadecimal digits, readable by its owner only.

    Two first uses at once get the same secret. A folder that is made for the file is its owner's alone.

    Raises:
        SecretUnsafe: others may read, write or replace the file or own it, it is no plain file, it is empty, too short
            or damaged, or it can be neither read nor made. Nothing is mended silently: whoever has read a secret has
            it.
    """
    try:
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):
                return _read(file)
            _make(file)
    except OSError as error:
        raise SecretUnsafe(f"{file} can be neither read nor made: {error.strerror}.") from None
    raise SecretUnsafe(f"{file} is removed again as soon as it is made.")


def _read(file: Path) -> str:
    # Looked at by its descriptor, so what is checked is what is read. O_NONBLOCK: a pipe would wait for its writer.
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if file.is_symlink():
            raise SecretUnsafe(f"{file} is a link. {_remedy()}") from None
        raise
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise SecretUnsafe(f"{file} is not a plain file. {_remedy()}")
        if about.st_uid != os.geteuid():
            raise SecretUnsafe(f"{file} belongs to another user (number {about.st_uid}). {_remedy()}")
        if (mode := stat.S_IMODE(about.st_mode)) & 0o077:
            raise SecretUnsafe(f"{file} was open to other users (mode {mode:04o}), who may know it. {_remedy()}")
        folder = stat.S_IMODE(file.parent.stat().st_mode)
        if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
            raise SecretUnsafe(f"Every user can replace {file}. Run `chmod o-w {file.parent}` and remove the file.")
        return _as_secret(os.read(descriptor, LONGEST + 1), file)
    finally:
        os.close(descriptor)


def _as_secret(content: bytes, file: Path) -> str:
    try:
        text = content.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise SecretUnsafe(
            f"{file} holds no secret: it is {'empty' if not content.strip() else 'not text'}. {_remedy()}"
        )
    if len(text) < SHORTEST:
        raise SecretUnsafe(f"{file} holds {len(text)} characters, and a secret has {SHORTEST} or more. {_remedy()}")
    if len(content) > LONGEST or not text.isprintable() or " " in text:
        raise SecretUnsafe(f"{file} holds something else than one secret. {_remedy()}")
    return text


def _remedy() -> str:
    return "Remove it: a new one is made with the next use."


def _make(file: Path) -> None:
    """Write a secret beside the file and link it there: whoever comes first wins, and nobody reads half of one."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            os.fchmod(descriptor, 0o600)  # whatever the umask takes away
            stream.write(secrets.token_hex(32))
            stream.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(beside, file)
    finally:
        beside.unlink(missing_ok=True)
