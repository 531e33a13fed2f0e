"""The documents that went live: `medley rollback` takes the cluster back to one of them.

<MEDLEY_HOME>/history/0007-20261121T072811Z-4f1c2a.yaml    numbered, newest last; when it went live, on which cluster
                     /cold_starts.json                     seconds that the last start of each application took

A document is written before the cluster is touched, and gets its name when it has gone live. A power failure or a full
disk can leave a file that is empty or cut: such a one is passed over, and named.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from pydantic import ValidationError

from deployments.settings import ModelArgs
from medley.checks.config import ClusterConfig, ConfigError, ServedModel, sleeps
from medley.checks.entries import MODEL_BUILDER
from medley.local.cluster import ClusterError
from medley.local.home import home, make_home
from models.documents import read_yaml
from models.errors import ModelNotFound

KEPT = 50
STARTED = "started Serve"
TIME = "%Y%m%dT%H%M%SZ"
# What a deploy that was killed has left behind is older than any deploy that goes on.
LEFT_BEHIND_S = 86_400


class Damaged(Exception):
    """A file of the history cannot be gone back to; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One document that went live completely: every application of it was ready.

    Attributes:
        note: why, such as "deploy of serve_config.yaml".
        started: Serve was started with it, so its `controller_options` are in force until the next such one.
        cluster: the Serve that it went live on, see `cluster_of`; empty where an earlier Medley wrote it.
    """

    number: int
    path: Path
    time: datetime
    by: str
    note: str
    started: bool
    cluster: str
    document: dict[str, Any]

    def __str__(self) -> str:
        return f"document {self.number} of {self.time:%Y-%m-%d %H:%M} UTC ({self.note})"


def cluster_of(answer: dict[str, Any]) -> str:
    """Which Serve gave this answer: another one after each `medley up`. Empty before it has started."""
    info = answer.get("controller_info") or {}
    return str(info.get("actor_id") or info.get("node_id") or "")[:12]


def folder() -> Path:
    return home() / "history"


def entries(cluster: str | None = None) -> list[Entry]:
    """Oldest first, without those that `damaged` names.

    Args:
        cluster: only those that went live on this one.
    """
    found = []
    for path in _files():
        with contextlib.suppress(Damaged):
            found.append(_read(path))
    return [entry for entry in found if cluster is None or entry.cluster == cluster]


def damaged() -> list[str]:
    """What in the history cannot be used, a sentence each, oldest first."""
    sentences = []
    for path in _files():
        try:
            _read(path)
        except Damaged as reason:
            sentences.append(f"{path} is passed over: {reason}.")
    return sentences


def latest_good(cluster: str | None = None) -> Entry | None:
    return next(reversed(entries(cluster)), None)


def before(number: int, cluster: str | None = None) -> Entry | None:
    """The last document that went live before the numbered one."""
    return next((entry for entry in reversed(entries(cluster)) if entry.number < number), None)


def numbered(number: int) -> Entry | None:
    return next((entry for entry in entries() if entry.number == number), None)


def started_with(cluster: str | None = None) -> Entry | None:
    """The document that Serve was last started with."""
    return next((entry for entry in reversed(entries(cluster)) if entry.started), None)


def config_of(entry: Entry) -> ClusterConfig:
    """A kept document, to deploy again. It went live once, so it is checked less strictly than a new file.

    Raises:
        ConfigError: a model or variant of it is no longer in the catalog.
    """
    document, models = entry.document, []
    for application in document["applications"]:
        if application.get("import_path") != MODEL_BUILDER:
            continue
        try:
            args = ModelArgs.model_validate(application.get("args"))
        except (ValidationError, ModelNotFound) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.message
            raise ConfigError(f"{entry} asks for what is no longer there: {why}") from None
        asleep = sleeps(application.get("deployments"))
        models.append(ServedModel(application["name"], args.spec, args.variant_name, asleep))
    return ClusterConfig(entry.path, document, models)


def keep(document: dict[str, Any], note: str, started: bool = False, cluster: str = "") -> Entry:
    """Keep a document that went live, unless it is the one that was live already.

    Raises:
        ClusterError: it cannot be written.
    """
    with prepared(document, note, started) as pending:
        return pending.keep(cluster)


@dataclass(frozen=True, slots=True)
class Pending:
    """A document that is on the disk, and not among the entries yet."""

    path: Path
    document: dict[str, Any]
    started: bool

    def keep(self, cluster: str) -> Entry:
        """It has gone live.

        Raises:
            ClusterError: it cannot be given its name.
        """
        try:
            with FileLock(folder() / ".lock"):
                last = latest_good(cluster)
                if last and not self.started and last.document == self.document:
                    return last
                number = max((_number(path) for path in _files()), default=0) + 1
                name = f"{number:04d}-{datetime.now(UTC):{TIME}}"
                path = folder() / f"{name}{f'-{cluster}' if cluster else ''}.yaml"
                self.path.rename(path)
                _sync(folder())
                _forget_the_oldest()
        except OSError as error:
            raise ClusterError(f"It is live, and {folder()} could not keep it: {error.strerror}.") from None
        return _read(path)


@contextlib.contextmanager
def prepared(document: dict[str, Any], note: str, started: bool = False) -> Iterator[Pending]:
    """Write a document before it goes live: where the disk is full, nothing may change that could not be taken back.

    Raises:
        ClusterError: it cannot be written.
    """
    body = yaml.safe_dump(document, sort_keys=False)
    header = {
        "result": "live, every application ready" + (f"; {STARTED}" if started else ""),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": _who(),
        "note": " ".join(note.split()),
        "sha256": _checksum(body),
    }
    comment = "".join(f"# {key}: {value}\n" for key, value in header.items())
    beside = folder() / f".{secrets.token_hex(8)}.new"
    try:
        try:
            _make_folder()
            _write(beside, comment + body)
        except OSError as error:
            message = f"{folder()} cannot be written to: {error.strerror}. Nothing was done, because it could not be"
            raise ClusterError(f"{message} taken back.") from None
        yield Pending(beside, document, started)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def cold_starts() -> dict[str, float]:
    """Seconds that the last start of each application took, as a deploy saw it."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder() / "cold_starts.json").read_text())
        if isinstance(found, dict):
            return {app: value for app, value in found.items() if isinstance(value, int | float)}
    return {}


def keep_cold_starts(seconds: dict[str, float]) -> None:
    """They make a later plan's words better. Where they cannot be kept, nothing is lost."""
    if not seconds:
        return
    rounded = {app: round(value, 1) for app, value in seconds.items()}
    beside = folder() / f".{secrets.token_hex(8)}.new"
    with contextlib.suppress(OSError):
        _make_folder()
        _write(beside, json.dumps(cold_starts() | rounded))
        beside.replace(folder() / "cold_starts.json")


def _make_folder() -> None:
    make_home()
    folder().mkdir(mode=0o700, exist_ok=True)


def _files() -> list[Path]:
    """By number, oldest first: a clock may go backwards."""
    return sorted((path for path in folder().glob("*.yaml") if _number(path)), key=lambda path: (_number(path), path))


def _number(path: Path) -> int:
    """0 for a file that is none of the history's."""
    number = path.name.split("-", 1)[0]
    return int(number) if number.isdecimal() and number.isascii() else 0


def _read(path: Path) -> Entry:
    """
    Raises:
        Damaged: it is not what was written, or somebody else may have written it.
    """
    text = _text(path)
    header: dict[str, str] = {}
    body = text
    while body.startswith("# "):
        line, _, body = body.partition("\n")
        key, _, value = line[2:].partition(": ")
        header[key] = value
    if not body:
        raise Damaged("it is empty" if not text else "it is cut")
    if "sha256" in header and header["sha256"] != _checksum(body):
        raise Damaged("it is not what was written, by its checksum")
    try:
        document = read_yaml(body)
        _, when, *cluster = path.stem.split("-")
        went_live = datetime.strptime(when, TIME).replace(tzinfo=UTC)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise Damaged("it cannot be read") from None
    if not _is_whole(document):
        raise Damaged("it is no document for Serve")
    started = STARTED in header.get("result", "")
    note, by = header.get("note", ""), header.get("by", "?")
    return Entry(_number(path), path, went_live, by, note, started, "-".join(cluster), document)


def _text(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            about = os.fstat(descriptor)
            # A document names code that Serve imports. So it is deployed only if nobody else can have written it.
            if about.st_uid != os.geteuid():
                raise Damaged(f"it belongs to another user (number {about.st_uid})")
            if stat.S_IMODE(about.st_mode) & 0o022:
                raise Damaged("other users may write to it")
            return stream.read().decode()
    except OSError as error:
        raise Damaged(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Damaged("it is not text") from None


def _is_whole(document: Any) -> bool:
    applications = document.get("applications") if isinstance(document, dict) else None
    return isinstance(applications, list) and all(isinstance(one, dict) and "name" in one for one in applications)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _forget_the_oldest() -> None:
    """But not what this Serve was started with: a plan compares with it."""
    have = entries()
    started = started_with()
    for old in have[:-KEPT]:
        if old != started:
            old.path.unlink()
    for part in folder().glob(".*.new"):
        if time.time() - part.stat().st_mtime > LEFT_BEHIND_S:
            part.unlink()


def _write(path: Path, text: str) -> None:
    """Write a new file that survives a power failure. Its owner's alone: environment variables may hold secrets."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)


def _sync(directory: Path) -> None:
    """A new name survives a power failure once its folder is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _who() -> str:
    with contextlib.suppress(KeyError, OSError):  # a container may have no name for its user
        return getpass.getuser()
    return str(os.getuid())
