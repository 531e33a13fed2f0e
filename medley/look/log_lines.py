"""Lines of Serve's log files: read, followed, and put in the order of their time.

A component writes `<name>.log`; what was rotated away is in `<name>.log.1` and so on, the highest number the oldest.
Lines are JSON objects; what a library printed may stand between them as it is.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from medley.look.screen import clock

TAIL_BYTES = 64 << 10
# Fields that every line has, or that say where it came from. They are shown in another way or of no use to a reader.
STANDARD = {
    "asctime",
    "levelname",
    "message",
    "filename",
    "lineno",
    "process",
    "exc_text",
    "timestamp_ns",
    "request_id",
    "event",
    "route",
    "application",
    "deployment",
    "replica",
    "component_name",
    "component_id",
    "worker_id",
    "node_id",
    "actor_id",
    "actor_name",
    "job_id",
    "task_id",
    "task_name",
    "task_func_name",
    "log_to_stderr",
    "skip_context_filter",
    "serve_access_log",
}


@dataclass(frozen=True, slots=True)
class Line:
    """
    Attributes:
        time_ns: Unix time; of the line before it in the file where it has none of its own, and 0 where none had.
        source: whose file it stands in, such as `router 6ajzy0fg` or `controller_24759`.
        record: None where the line is no JSON object.
    """

    time_ns: int
    source: str
    text: str
    record: dict[str, Any] | None

    @property
    def request_id(self) -> str | None:
        return (self.record or {}).get("request_id")

    @property
    def level(self) -> str:
        return (self.record or {}).get("levelname", "")

    @property
    def message(self) -> str:
        """What it says, with the fields that only such a line has; a traceback is in `traceback`."""
        if self.record is None:
            return self.text
        fields = [f"{key}={_shown(value)}" for key, value in self.record.items() if key not in STANDARD]
        return " ".join([str(self.record.get("message", "")).rstrip(), *fields])

    @property
    def traceback(self) -> list[str]:
        return _unquoted(str((self.record or {}).get("exc_text") or "")).splitlines()

    @property
    def clock(self) -> str:
        return clock(self.time_ns / 1e9) if self.time_ns else ""


class LogReader:
    """Reads what is in the files of a folder, and then what is added, in the order of time.

    Args:
        pattern: of the names of files, without what rotation adds.
        request_id: only lines with it; JSON lines whose field it is, and other lines that hold it somewhere.
        last: at most this many lines the first time, the newest ones.
    """

    def __init__(self, folder: Path, pattern: str = "*.log", request_id: str | None = None, last: int | None = None):
        self.folder = folder
        self.pattern = pattern
        self.request_id = request_id
        self.last = last
        self._open: dict[Path, _OpenFile] = {}
        self._began = False

    def read(self) -> list[Line]:
        """Everything the first time; after that what was written since."""
        lines = [] if self._began else [line for path in self._rotated() for line in self._wanted(_lines_of(path))]
        for path in sorted(self.folder.glob(self.pattern)):
            reader = self._open.setdefault(path, _OpenFile(path))
            lines += self._wanted(reader.new_lines())
        lines.sort(key=lambda line: line.time_ns)
        first_time, self._began = not self._began, True
        return lines[-self.last :] if first_time and self.last else lines

    def close(self) -> None:
        for reader in self._open.values():
            reader.close()

    def _rotated(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.pattern}.[0-9]*"), key=lambda path: -int(path.suffix[1:]))

    def _wanted(self, lines: Iterable[tuple[Path, bytes, bytes]]) -> Iterator[Line]:
        needle = (self.request_id or "").encode()
        for path, raw, json_before in lines:
            if needle not in raw:
                continue
            line = parsed(path, raw, json_before)
            if not self.request_id or line.record is None or line.request_id == self.request_id:
                yield line


class _OpenFile:
    """A file that grows, and is rotated when it is full."""

    def __init__(self, path: Path):
        self.path = path
        self.stream: BufferedReader | None = None
        self.unfinished = b""
        self.last_json = b""

    def new_lines(self) -> Iterator[tuple[Path, bytes, bytes]]:
        if self.stream is None:
            self.stream = self.path.open("rb")
        yield from self._rest()
        if self._was_replaced():
            self.stream.close()
            self.stream = self.path.open("rb")
            yield from self._rest()

    def close(self) -> None:
        if self.stream:
            self.stream.close()

    def _rest(self) -> Iterator[tuple[Path, bytes, bytes]]:
        for piece in self.stream or ():
            raw, self.unfinished = self.unfinished + piece, b""
            if not raw.endswith(b"\n"):  # the end of the line is not written yet
                self.unfinished = raw
                return
            yield self.path, raw, self.last_json
            self.last_json = raw if raw.startswith(b"{") else self.last_json

    def _was_replaced(self) -> bool:
        try:
            return bool(self.stream) and self.path.stat().st_ino != os.fstat(self.stream.fileno()).st_ino
        except FileNotFoundError:  # in the middle of a rotation
            return False


def _lines_of(path: Path) -> Iterator[tuple[Path, bytes, bytes]]:
    last_json = b""
    with path.open("rb") as stream:
        for raw in stream:
            yield path, raw, last_json
            last_json = raw if raw.startswith(b"{") else last_json


def tail_of(path: Path) -> list[Line]:
    """The last lines of a file, at most 64 KiB of them."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        raws = stream.read().splitlines()[1 if size > TAIL_BYTES else 0 :]
    return [parsed(path, raw, before) for before, raw in zip([b"", *raws], raws, strict=False)]


def parsed(path: Path, raw: bytes, json_before: bytes = b"") -> Line:
    """A line of a file.

    Args:
        json_before: the last JSON line before it, whose time it takes where it has none.
    """
    text = raw.decode(errors="replace").rstrip("\r\n")
    record = _object(text)
    time_ns = _time_ns(record) or _time_ns(_object(json_before.decode(errors="replace")))
    return Line(time_ns, source_of(path), text, record)


def source_of(path: Path) -> str:
    """`replica_<application>_<deployment>_<replica>.log.2` is `<application> <replica>`; others keep their names."""
    stem = path.name.split(".log")[0]
    if match := re.fullmatch(r"replica_(.+)_[^_]+_([^_]+)", stem):
        return f"{match[1]} {match[2]}"
    return stem


def _object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _unquoted(traceback: str) -> str:
    """Ray writes some tracebacks as tuples of one text each: `('Traceback ...\\n',)('  File ...',)`."""
    if not traceback.startswith(("('", '("')):
        return traceback
    try:
        pieces = traceback.removeprefix("(").removesuffix(",)").split(",)(")
        return "".join(str(ast.literal_eval(piece)) for piece in pieces)
    except (ValueError, SyntaxError):
        return traceback


def _time_ns(record: dict[str, Any] | None) -> int:
    if record is None:
        return 0
    if isinstance(record.get("timestamp_ns"), int):
        return record["timestamp_ns"]
    try:
        return int(datetime.strptime(record["asctime"], "%Y-%m-%d %H:%M:%S,%f").timestamp() * 1e9)
    except (KeyError, TypeError, ValueError):
        return 0


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
