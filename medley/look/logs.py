"""`medley logs`: one request from the edge to the engine, or what a model's replicas wrote."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.settings import RouterArgs
from medley.change import history
from medley.checks.words import nearest
from medley.local import cluster
from medley.look.application_status import is_model
from medley.look.live import Live, look_here
from medley.look.log_lines import Line, LogReader, tail_of
from models.catalog import load_catalog
from models.errors import ModelNotFound

POLL_S = 0.5
TRACEBACK_LINES = 40
FILES_KEPT = 5  # Ray's LOGGING_ROTATE_BACKUP_COUNT
BUFFER = "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE"
COLOURS = {"ERROR": typer.colors.RED, "CRITICAL": typer.colors.RED, "WARNING": typer.colors.YELLOW}

RequestId = Annotated[str | None, typer.Argument(help="the X-Request-Id of an answer")]
OfModel = Annotated[str | None, typer.Option("--model", help="the lines of this model's replicas")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="keep printing what is written from now on")]
Last = Annotated[int, typer.Option(min=1, help="with --model, begin with this many lines")]


def logs(request_id: RequestId = None, model: OfModel = None, follow: Follow = False, last: Last = 200) -> None:
    """Follow one request from the edge to the engine, or show what a model's replicas wrote, in the order of time."""
    if bool(request_id) == bool(model):
        raise typer.BadParameter("name a request id, or a model with --model, and not both.")
    folder = cluster.logs()
    reader = reader_of_request(folder, request_id) if request_id else reader_of_model(folder, model or "", last)
    if follow and (slip := meant_instead(folder, request_id, model)):  # it would wait for ever
        typer.echo(slip, err=True)
    try:
        found = show(reader, follow, elapsed=bool(request_id))
    except KeyboardInterrupt:
        return
    finally:
        reader.close()
    if not found:
        if slip := meant_instead(folder, request_id, model):
            why = [slip]
        else:
            why = why_no_request(folder, look_here()) if request_id else why_no_model(folder, model or "")
        wanted = f"the request {request_id}" if request_id else model
        typer.echo("\n".join([f"No line of {wanted} is in {folder}.", *(f"  {one}" for one in why)]), err=True)
        raise typer.Exit(1)


def meant_instead(folder: Path, request_id: str | None, model: str | None) -> str:
    """What to write where a model's name stands for a request's id, or the other way round. Empty otherwise."""
    if request_id is not None:
        has_logs = list(folder.glob(f"replica_{escape(request_id)}_model_*.log*"))
        known = [request_id] if has_logs or request_id in load_catalog() else nearest(request_id, load_catalog())
        said = "" if request_id in known else "perhaps "
        return f"{request_id} is {said}a model. Did you mean `medley logs --model {known[0]}`?" if known else ""
    if model == "router":
        return "The router is no model. `medley logs REQUEST_ID` shows what it wrote of a request."
    if model in load_catalog():
        return ""
    with contextlib.closing(reader_of_request(folder, str(model))) as reader:
        if any(reader.read()):
            return f"{model} is a request, and not a model. Did you mean `medley logs {model}`?"
    return ""


def reader_of_request(folder: Path, request_id: str) -> LogReader:
    return LogReader(folder, request_id=request_id)


def reader_of_model(folder: Path, model: str, last: int | None = None) -> LogReader:
    return LogReader(folder, pattern=f"replica_{escape(model)}_model_*.log", last=last)


def show(reader: LogReader, follow: bool, elapsed: bool) -> bool:
    """Print the lines; with `follow` until interrupted. Returns whether there were any.

    Args:
        elapsed: begin each line with the milliseconds since the first.
    """
    start_ns: int | None = None
    for line in _lines(reader, follow):
        start_ns = line.time_ns if start_ns is None else start_ns
        for text in line_texts(line, start_ns if elapsed else None):
            typer.secho(text, fg=COLOURS.get(line.level))
    return start_ns is not None


def last_words(model: str, folder: Path, count: int) -> list[str]:
    """The last lines that its youngest replica wrote, tracebacks included, as they are shown."""
    for path in _by_age(folder, model):
        if lines := [text for line in tail_of(path) for text in line_texts(line)]:
            return lines[-count:]
    return []


def last_call(model: str, folder: Path) -> float | None:
    """Unix time of the last call that one of its replicas wrote down; None when none is found."""
    found = [line.time_ns for path in _by_age(folder, model) for line in tail_of(path) if _is_call(line)]
    return max(found) / 1e9 if found else None


def _is_call(line: Line) -> bool:
    return (line.record or {}).get("event") == "call"


def _by_age(folder: Path, model: str) -> list[Path]:
    files = folder.glob(f"replica_{escape(model)}_model_*.log")
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def _lines(reader: LogReader, follow: bool) -> Iterator[Line]:
    yield from reader.read()
    while follow:
        time.sleep(POLL_S)
        yield from reader.read()


def line_texts(line: Line, start_ns: int | None = None) -> list[str]:
    """A line as it is shown, and its traceback below it. What is no JSON is shown as it is.

    Args:
        start_ns: time of the first line, to count milliseconds from.
    """
    since = "" if start_ns is None else f"{(line.time_ns - start_ns) / 1e6:+10.1f} ms  "
    level = f"{line.level}  " if line.level not in ("", "INFO") else ""
    first = f"{line.clock:<12}  {since}{line.source}  {level}{line.message}"
    return [first, *(f"    {text}" for text in line.traceback[-TRACEBACK_LINES:])]


def why_no_request(folder: Path, live: Live) -> list[str]:
    """Reasons for which nothing is known of a request, the likely ones first."""
    if not folder.is_dir():
        return ["No cluster has run on this machine, or its logs were removed."]
    reasons = []
    router = router_args(live)
    if router is not None and not router.get("access_log", RouterArgs().access_log):
        reasons.append("The router writes no line for requests: its argument `access_log` is off.")
    reasons += kept_back()
    files = list(folder.glob("replica_router_*.log*"))
    if any(path.suffix == f".{FILES_KEPT}" for path in files):
        reasons.append(f"It may be older than what is kept: the log in use and {FILES_KEPT} before it.")
    if oldest := oldest_line(folder):
        reasons.append(f"It may be of an earlier cluster: the first line of this one is of {oldest}.")
    if not files:
        reasons.append("No router has written here. Its logs are on the node where it runs.")
    return [*reasons, "Compare the id with the X-Request-Id of the answer."]


def why_no_model(folder: Path, model: str) -> list[str]:
    try:
        load_catalog().resolve(model)
    except ModelNotFound as error:
        return [error.message]
    if list(folder.glob(f"replica_{escape(model)}_model_*.log*")):
        return ["Its replicas have written nothing yet.", *kept_back()]
    return [f"No replica of it has run here. `medley doctor {model}` says why."]


def router_args(live: Live) -> dict[str, Any] | None:
    """What the router was deployed with; None when Serve does not say."""
    for application in live.applications.values():
        if not is_model(application):
            return (application.get("deployed_app_config") or {}).get("args") or {}
    return None


def kept_back() -> list[str]:
    """A reason that holds if the document that Serve was started with makes replicas buffer their lines."""
    started = history.started_with()
    options = (started.document.get("controller_options") or {}) if started else {}
    lines = str(((options.get("runtime_env") or {}).get("env_vars") or {}).get(BUFFER, "1"))
    return [] if lines in ("0", "1") else [f"Each replica keeps up to {lines} lines before it writes them ({BUFFER})."]


def oldest_line(folder: Path) -> str:
    """Day and time of the first line of the controller, which begins before all others."""
    firsts = []
    for path in folder.glob("controller_[0-9]*.log*"):
        with path.open() as stream:
            firsts.append(re.match(r'\{"asctime": "([^",]+)', stream.readline()))
    return min((first[1] for first in firsts if first), default="")
