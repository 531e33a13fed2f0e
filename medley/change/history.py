"""The documents that went live: `medley rollback` takes the cluster back to one of them.

<MEDLEY_HOME>/history/0007-20261121T072811Z.yaml     numbered, newest last
                     /cold_starts.json               seconds that the last start of each application took
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.settings import ModelArgs
from medley.checks.config import ClusterConfig, ConfigError, ServedModel, sleeps
from medley.checks.entries import MODEL_BUILDER
from medley.local.home import home
from models.errors import ModelNotFound

KEPT = 50
STARTED = "started Serve"


@dataclass(frozen=True, slots=True)
class Entry:
    """One document that went live completely: every application of it was ready.

    Attributes:
        note: why, such as "deploy of serve_config.yaml".
        started: Serve was started with it, so its `controller_options` are in force until the next such one.
    """

    number: int
    path: Path
    time: datetime
    by: str
    note: str
    started: bool

    @property
    def document(self) -> dict[str, Any]:
        return yaml.safe_load(self.path.read_text())

    def __str__(self) -> str:
        return f"document {self.number} of {self.time:%Y-%m-%d %H:%M} UTC ({self.note})"


def folder() -> Path:
    return home() / "history"


def entries() -> list[Entry]:
    """Oldest first."""
    return [_read(path) for path in sorted(folder().glob("[0-9]*-*.yaml"), key=_number)]


def latest_good() -> Entry | None:
    return next(reversed(entries()), None)


def before(number: int) -> Entry | None:
    """The last document that went live before the numbered one."""
    return next((entry for entry in reversed(entries()) if entry.number < number), None)


def numbered(number: int) -> Entry | None:
    return next((entry for entry in entries() if entry.number == number), None)


def started_with() -> Entry | None:
    """The document that Serve was last started with."""
    return next((entry for entry in reversed(entries()) if entry.started), None)


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


def keep(document: dict[str, Any], note: str, started: bool = False) -> Entry:
    """Keep a document that went live, unless it is the one that was live already."""
    last = latest_good()
    if last and not started and last.document == document:
        return last
    folder().mkdir(parents=True, exist_ok=True)
    now, number = datetime.now(UTC), last.number + 1 if last else 1
    path = folder() / f"{number:04d}-{now:%Y%m%dT%H%M%SZ}.yaml"
    header = {
        "result": "live, every application ready" + (f"; {STARTED}" if started else ""),
        "time": now.isoformat(timespec="seconds"),
        "by": _who(),
        "note": " ".join(note.split()),
    }
    comment = "".join(f"# {key}: {value}\n" for key, value in header.items())
    _write(path, comment + yaml.safe_dump(document, sort_keys=False))
    for old in entries()[:-KEPT]:
        old.path.unlink()
    return _read(path)


def cold_starts() -> dict[str, float]:
    """Seconds that the last start of each application took, as a deploy saw it."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder() / "cold_starts.json").read_text())
    return {}


def keep_cold_starts(seconds: dict[str, float]) -> None:
    if seconds:
        folder().mkdir(parents=True, exist_ok=True)
        rounded = {app: round(value, 1) for app, value in seconds.items()}
        _write(folder() / "cold_starts.json", json.dumps(cold_starts() | rounded))


def _read(path: Path) -> Entry:
    lines = [line[2:] for line in path.read_text().splitlines()[:4] if line.startswith("# ")]
    header = dict(line.split(": ", 1) for line in lines if ": " in line)
    time = datetime.strptime(path.stem.split("-", 1)[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    started = STARTED in header.get("result", "")
    return Entry(_number(path), path, time, header.get("by", "?"), header.get("note", ""), started)


def _number(path: Path) -> int:
    return int(path.name.split("-", 1)[0])


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only: environment variables may hold secrets."""
    beside = path.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    beside.replace(path)


def _who() -> str:
    with contextlib.suppress(KeyError, OSError):  # a container may have no name for its user
        return getpass.getuser()
    return str(os.getuid())
