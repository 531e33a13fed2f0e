"""Every kind of process of a cluster killed, and stopped for 20 seconds, under load: `python -m benchmarks.deaths`.

Takes the cluster that runs, which is the starter cluster. For each kind of process and each harm, four clients embed
texts, two stream chats, and one opens a new connection every 50 ms to see whether anybody answers at the edge. Nobody
tries again. What a client sees is counted. The table goes to `--page`, beside the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil

from medley.local.cluster import processes

ADDRESS = "http://127.0.0.1:8000"
CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
STOPPED_S = 20.0
# Before the harm, to see that the load runs; and the longest that a recovery is waited for.
CALM_S, PATIENCE_S = 5.0, 240.0
# Everything must have been as before for this long: ready at once may mean that nobody has noticed yet.
AFTER_S = 8.0
# A client waits for longer than anything may take.
CLIENT_S = 120.0

# Found in the command line or the title of a process.
KINDS = {
    "GCS": r"/gcs_server ",
    "raylet": r"/raylet/raylet ",
    "dashboard": r"/ray/dashboard/dashboard\.py",
    "dashboard, a module of it": r"^ray-dashboard-ServeHead",
    "dashboard agent": r"^ray::DashboardAgent",
    "runtime environment agent": r"^ray::RuntimeEnvAgent",
    "Serve's controller": r"^ray::ServeController",
    "HAProxy": r"/haproxy -db ",
    "its manager": r"^ray::HAProxyManager",
    "Serve's proxy": r"^ray::ProxyActor",
    "router": r"^ray::ServeReplica:router:",
    "replica of embeddings": rf"^ray::ServeReplica:{EMBEDDINGS}:",
    "replica of chat": rf"^ray::ServeReplica:{CHAT}:",
    "vLLM's EngineCore": r"^VLLM::EngineCore",
    "vLLM's Worker": r"^VLLM::Worker",
    "HAProxy's watcher": r"/haproxy\.py watch ",
    "the guard": r"-m medley\.guard",
}
# These look after others, and nobody after them: a new one comes with the next HAProxy, or the next `medley up`.
ALONE = ("HAProxy's watcher", "the guard")


@dataclass
class Row:
    """
    Attributes:
        refused: 429 or 503 with a Retry-After.
        lost: any other end without an answer, by what the client saw.
        broken_streams: streams that ended early, or before they began.
        longest_s: the longest that any request took, whatever its end.
        edge_s: the longest time for which new connections to the edge got no answer.
        recovery_s: until /readyz says 200 with as many replicas as before, and a process of this kind runs again.
    """

    kind: str
    harm: str
    answered: int = 0
    refused: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    broken_streams: int = 0
    longest_s: float = 0.0
    edge_s: float = 0.0
    recovery_s: float | None = None
    notes: list[str] = field(default_factory=list)

    def lose(self, why: str) -> None:
        self.lost[why] = self.lost.get(why, 0) + 1


def by_kind() -> dict[str, list[psutil.Process]]:
    """Processes of the cluster, the oldest first."""
    found: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
    for process in processes():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline()) + " "
            for kind, pattern in KINDS.items():
                if re.search(pattern, words):
                    found[kind].append(process)
    return {kind: sorted(some, key=lambda process: process.create_time()) for kind, some in found.items()}


def request_of(number: int, streams: bool) -> tuple[str, dict[str, Any]]:
    if streams:
        messages = [{"role": "user", "content": f"Tell me story {number}."}]
        body = {"model": CHAT, "messages": messages, "max_tokens": 32, "ignore_eos": True, "stream": True}
        return "/v1/chat/completions", body
    return "/v1/embeddings", {"model": EMBEDDINGS, "input": f"sentence {number}"}


# Each request has a connection of its own.
UNUSED_AGAIN = httpx.Limits(max_keepalive_connections=0)


async def client(row: Row, place: int, streams: bool, over: asyncio.Event) -> None:
    """One request after the other until it is over."""
    async with httpx.AsyncClient(base_url=ADDRESS, timeout=CLIENT_S, limits=UNUSED_AGAIN) as http:
        number = place * 100_000
        while not over.is_set():
            number += 1
            began = time.monotonic()
            await ask(http, row, *request_of(number, streams))
            row.longest_s = max(row.longest_s, time.monotonic() - began)


async def ask(http: httpx.AsyncClient, row: Row, path: str, body: dict[str, Any]) -> None:
    """Count one request in the row."""
    streams = body.get("stream", False)
    try:
        async with http.stream("POST", path, json=body) as answer:
            text = (await answer.aread()).decode()
        if answer.status_code == 200 and (not streams or "data: [DONE]" in text):
            row.answered += 1
            return
        if answer.status_code == 200:
            row.broken_streams += 1
        elif answer.status_code in (429, 503) and "retry-after" in answer.headers and '"error"' in text:
            row.refused += 1
        else:
            row.lose(f"{answer.status_code} {text[:60]}")
    except httpx.HTTPError as error:
        if streams and not isinstance(error, httpx.ConnectError):
            row.broken_streams += 1
        else:
            row.lose(type(error).__name__)
    await asyncio.sleep(0.2)


async def watch_the_edge(row: Row, over: asyncio.Event) -> None:
    async with httpx.AsyncClient(base_url=ADDRESS, timeout=1.0, limits=UNUSED_AGAIN) as http:
        answered = time.monotonic()
        while not over.is_set():
            with contextlib.suppress(httpx.HTTPError):
                await http.get("/-/healthz")
                answered = time.monotonic()
            row.edge_s = max(row.edge_s, time.monotonic() - answered)
            await asyncio.sleep(0.05)


async def state() -> dict[str, int] | None:
    """Replicas by model if everything is ready."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        async with httpx.AsyncClient(base_url=ADDRESS, timeout=2.0) as http:
            answer = await http.get("/readyz")
        if answer.status_code == 200:
            return {name: model["replicas"] for name, model in answer.json()["models"].items()}
    return None


async def when_ready() -> dict[str, int]:
    """Replicas by model, when everything is ready."""
    for _ in range(int(PATIENCE_S)):
        if found := await state():
            return found
        await asyncio.sleep(1.0)
    raise SystemExit("The cluster is not ready. `medley doctor` says why.")


async def harmed(kind: str, harm: str) -> Row:
    row = Row(kind, harm)
    before = await when_ready()
    processes_before = by_kind()
    if not processes_before[kind]:
        row.notes.append("no such process")
        return row
    over = asyncio.Event()
    work = [asyncio.create_task(client(row, place, place >= 4, over)) for place in range(6)]
    work.append(asyncio.create_task(watch_the_edge(row, over)))
    await asyncio.sleep(CALM_S)
    victim = processes_before[kind][-1]
    began = time.monotonic()
    if harm == "killed":
        victim.kill()
    else:
        victim.suspend()
        await asyncio.sleep(STOPPED_S)
        go_on(victim)

    async def as_before() -> bool:
        if await state() != before:
            return False
        now = await asyncio.to_thread(by_kind)
        return all(len(now[one]) >= len(some) for one, some in processes_before.items() if one not in ALONE)

    held_since = None
    while time.monotonic() - began < PATIENCE_S:
        if not await as_before():
            held_since = None
        elif held_since is None:
            held_since = time.monotonic()
        elif time.monotonic() - held_since > AFTER_S:
            row.recovery_s = round(held_since - began, 1)
            break
        await asyncio.sleep(1.0)
    else:
        now = {one: len(some) for one, some in by_kind().items()}
        row.notes.append(f"not as before after {PATIENCE_S:g} s: {now}")
    over.set()
    await asyncio.gather(*work)
    row.longest_s, row.edge_s = round(row.longest_s, 2), round(row.edge_s, 2)
    return row


def go_on(process: psutil.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was replaced meanwhile
        os.kill(process.pid, signal.SIGCONT)


def table(rows: list[Row]) -> Iterator[str]:
    yield (
        "| process | harm | answered | refused | lost | broken streams | longest request | edge silent | "
        "as before after |"
    )
    yield "|---|---|---:|---:|---|---:|---:|---:|---:|"
    for row in rows:
        lost = ", ".join(f"{count} x {why}" for why, count in row.lost.items()) or "0"
        after = "never" if row.recovery_s is None else f"{row.recovery_s:g} s"
        yield (
            f"| {row.kind} | {row.harm} | {row.answered} | {row.refused} | {lost} | {row.broken_streams} | "
            f"{row.longest_s:g} s | {row.edge_s:g} s | {after} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--harm", choices=("killed", "stopped"), help="only this")
    parser.add_argument("--page", type=Path, default=Path("build/deaths"), help="where to write NAME.md and NAME.json")
    chosen = parser.parse_args()
    rows = []
    for kind in chosen.kinds or KINDS:
        for harm in (chosen.harm,) if chosen.harm else ("killed", "stopped"):
            row = asyncio.run(harmed(kind, harm))
            rows += [row] if row.answered else []
            print("\n".join(list(table([row]))[2:]), *row.notes, flush=True)
    chosen.page.parent.mkdir(parents=True, exist_ok=True)
    chosen.page.with_suffix(".md").write_text("\n".join(table(rows)) + "\n")
    facts = {"date": f"{date.today()}", "cpus": os.cpu_count(), "rows": [asdict(row) for row in rows]}
    chosen.page.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
