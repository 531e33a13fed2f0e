"""What a well-behaved client saw, alone and beside others, against what slo.yaml promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patience import patience, slowness, wait_until
from polite import CHAT, CLIENT_S, EMBEDDINGS, IMAGES, READY, Asked

from models.slo import LIMITS, Targets, load_slo
from models.tasks import BY_NAME

ROOT = Path(__file__).parents[2]
MODELS = {"embeddings": EMBEDDINGS, "chat": CHAT, "images": IMAGES}


@contextmanager
def asking(address: str, file: Path) -> Iterator[list[Asked]]:
    """A well-behaved client beside what is done inside. Afterwards the list has all of its requests."""
    asked: list[Asked] = []
    program = [sys.executable, str(Path(__file__).with_name("polite.py")), address, str(file)]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: file.exists() and file.stat().st_size, "a first answer to the client")
            yield asked
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(patience(2 * CLIENT_S))
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert process.returncode == 0
    asked += [Asked(**json.loads(line)) for line in file.read_text().splitlines()]


def promise(task: str) -> Targets:
    return load_slo(ROOT / "slo.yaml").targets(BY_NAME[task], MODELS[task], "cpu")


def of(task: str, asked: list[Asked]) -> list[Asked]:
    return [one for one in asked if one.task == task]


def is_answered(one: Asked) -> bool:
    return one.status == 200 and not one.wrong


def keeps(one: Asked, limit: str, seconds: float) -> bool:
    """Refused, lost and wrong ones keep no promise: nobody has promised to refuse a client who asks for so little."""
    value = getattr(one, limit, None)
    return is_answered(one) and value is not None and value <= seconds * slowness()


def broken(asked: list[Asked]) -> list[str]:
    """Promises that were not kept."""
    found = []
    for task in MODELS:
        mine, targets = of(task, asked), promise(task)
        for limit in LIMITS:
            if (seconds := getattr(targets, limit)) is None:
                continue
            kept = sum(keeps(one, limit, seconds) for one in mine)
            if not mine or kept / len(mine) < targets.good:
                found.append(f"{task}: {kept} of {len(mine)} keep {limit} of {seconds:g} s, {targets.good:.0%} should")
    return found


def never(asked: list[Asked]) -> list[str]:
    """What must not happen once: no answer, a wrong one, a refusal that does not say until when; not being ready."""
    refused = [one for one in asked if one.status in (429, 503) and one.retry_after and one.task != READY]
    return [str(one) for one in asked if not is_answered(one) and one not in refused]


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def values_of(task: str, limit: str, asked: list[Asked]) -> list[float]:
    values = [getattr(one, limit, None) for one in of(task, asked) if is_answered(one)]
    return [value for value in values if value is not None]


def table(alone: list[Asked], beside: list[Asked]) -> str:
    """Seconds, alone and beside hostile requests, in Markdown."""
    lines = [
        "| task | seconds of | alone, beside | p50, p99, worst alone | p50, p99, worst beside | p99, times alone "
        "| promise | over it | refused |",
        "|---|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for task in (*MODELS, READY):
        targets = promise(task) if task in MODELS else None
        for limit in LIMITS:
            values = [values_of(task, limit, asked) for asked in (alone, beside)]
            if not values[0] or not values[1]:
                continue
            seconds = getattr(targets, limit) if targets else None
            shown = [", ".join(f"{at(some, share):.3f}" for share in (0.5, 0.99, 1)) for some in values]
            over = "" if seconds is None else sum(value > seconds for value in values[1])
            refused = sum(one.status in (429, 503) for one in of(task, beside))
            lines.append(
                f"| {task} | {limit} | {len(of(task, alone))}, {len(of(task, beside))} | {shown[0]} | {shown[1]} | "
                f"{at(values[1], 0.99) / at(values[0], 0.99):.1f} | {seconds or ''} | {over} | {refused} |"
            )
    return "\n".join(lines)
