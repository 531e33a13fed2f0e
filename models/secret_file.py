"""A secret in a file: made on first use, the same for every process that asks, and for its owner's eyes alone."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

# Characters. What is shorter was cut off, or was not made here.
SHORTEST = 24
# More than any secret has.
LONGEST = 4096


class SecretUnsafe(ValueError):
    """The file cannot be trusted with a secret. The message says why, and what to do."""


def secret_of_file(file: Path) -> str:
    """The secret in a file, made on first use. Its folder is made too, for its owner alone.

    Processes that ask at the same time get the same secret: each writes its own under another name, whole and on the
    disk, and the first to give it the file's name wins.

    Raises:
        SecretUnsafe: the file is a link or no file, is another user's, can be read or changed by others, or is too
            short; or its folder lets every user replace it.
        OSError: it can be neither read nor made.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.path.lexists(file):
        _make(file)
    return _read(file)


def _make(file: Path) -> None:
    drawn = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(drawn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            os.fchmod(descriptor, 0o600)  # whatever the umask takes away
            stream.write(secrets.token_urlsafe(24))
            stream.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was faster
            os.link(drawn, file)
    finally:
        drawn.unlink(missing_ok=True)


def _read(file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SecretUnsafe(f"{file} is a link to another file. {_ANEW}") from None
        raise
    try:
        _check(file, os.fstat(descriptor))
        content = os.read(descriptor, LONGEST + 1).rstrip(b"\r\n")
    finally:
        os.close(descriptor)
    if not SHORTEST <= len(content) <= LONGEST:
        what = "is empty" if not content else f"has {len(content)} characters"
        raise SecretUnsafe(f"{file} {what}, and a secret has {SHORTEST} to {LONGEST}. {_ANEW}")
    return content.decode("latin-1")


def _check(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretUnsafe(f"{file} is no file. {_ANEW}")
    if status.st_uid != os.geteuid():
        raise SecretUnsafe(f"{file} belongs to another user (uid {status.st_uid}). {_ANEW}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SecretUnsafe(f"{file} can be read or changed by other users (mode {mode:04o}). {_ANEW}")
    folder = stat.S_IMODE(file.parent.stat().st_mode)
    if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
        raise SecretUnsafe(
            f"Every user can replace {file}: its folder has the mode {folder:04o}. Run `chmod o-w {file.parent}` and "
            "remove the file. A new secret is drawn then."
        )


_ANEW = "Remove it: a new secret is drawn then, and what the old one opened or signed is no longer valid."
