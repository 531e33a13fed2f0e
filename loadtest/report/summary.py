"""The figures of a test, as report.json has them."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from loadtest.bounds import quantile, ratio_over_blocks
from loadtest.records import Record
from loadtest.schedule import Schedule
from loadtest.targets import LIMITS, Targets
from loadtest.verdict import Verdict

SCHEMA = 2
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
WORST = 3
# Blocks that an A/B run is cut into, and by how much one build may be slower than the other before it counts.
BLOCKS, MARGIN, CONFIDENCE = 12, 0.1, 0.95


def summarize(
    schedule: Schedule, attempts: Sequence[Record], verdict: Verdict, cold: dict[str, float], began: float
) -> dict[str, Any]:
    """
    Args:
        began: Unix time at which the schedule began. cold: seconds of the first request of all, by model.
    """
    of_model: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in attempts:
        of_model[record.subject, record.build].append(record)
    document = {
        "schema": SCHEMA,
        "scenario": schedule.scenario.name,
        "proves": schedule.scenario.proves,
        "outcome": str(verdict.outcome),
        "exit": int(verdict.exit),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "began": began,
        "address": schedule.options.address,
        "promises": schedule.options.promises,
        "seed": schedule.options.seed,
        "schedule": schedule.digest,
        "attempts": len(attempts),
        "seconds": schedule.requests[-1].arrival.at,
        "rules": [asdict(rule) | {"outcome": str(rule.outcome)} for rule in verdict.rules],
        "health": asdict(verdict.health),
        "cold_start_s": cold,
        "models": [
            of_one(name, build, found, schedule.promised[found[0].model])
            for (name, build), found in sorted(of_model.items())
        ],
        "host": {"machine": platform.machine(), "cores": os.cpu_count(), "locust": metadata.version("locust")},
        "git": git(),
    }
    if schedule.options.against:
        document["comparison"] = comparison(attempts)
    return document


def of_one(subject: str, build: str, found: Sequence[Record], targets: Targets) -> dict[str, Any]:
    missed = {record.number: why for record in found if not record.left and (why := targets.miss(record))}
    figures: dict[str, list[float]] = defaultdict(list)
    for record in found:
        if record.answered:
            for name, value in record.figures().items():
                figures[name].append(value)
    judged = [record for record in found if not record.left]
    span = max((record.last or record.due for record in found), default=0.0) or 1.0
    answered = [(record.figures()["duration_s"], record) for record in found if record.answered]
    worst = sorted(answered, key=lambda pair: -pair[0])[:WORST]
    return {
        "model": subject,
        "build": build,
        "task": found[0].task,
        "attempts": len(found),
        "good": len(judged) - len(missed),
        "share_good": (len(judged) - len(missed)) / max(1, len(judged)),
        "refused": sum(record.refused for record in found),
        "beyond_promise": sum(record.beyond for record in found),
        "left": sum(record.left for record in found),
        "given_up": sum(record.given_up for record in found),
        "returns": returns_of(found),
        "tokens_per_s": sum(record.tokens for record in found) / span,
        "amount_per_s": sum(record.amount for record in found) / span,
        "limits": targets.limits,
        "promised_share": targets.good,
        "figures": {
            name: {key: quantile(figures[name], share) for key, share in SHARES.items()}
            for name in (*LIMITS,)
            if figures[name]
        },
        "max_gap_p99_s": quantile([record.max_gap for record in found if record.chunks > 1], 0.99)
        if any(record.chunks > 1 for record in found)
        else None,
        "misses": dict(Counter(why.split(" ")[0] for why in missed.values()).most_common(5)),
        "worst": [
            {"id": one.id, "duration_s": duration, "queue_s": one.queue_s, "tokens": one.tokens}
            for duration, one in worst
        ],
    }


def returns_of(found: Sequence[Record]) -> dict[str, Any]:
    """What became of refusals: so many requests `at_first`, `came_back` of them; `tries` is how often they came back in
    all, and `let_in` how many of these tries were not refused again."""
    tries, let_in = sum(record.returned for record in found), sum(record.let_in for record in found)
    return {
        "at_first": sum(record.refused or record.returned > 0 for record in found),
        "came_back": sum(record.returned > 0 for record in found),
        "tries": tries,
        "let_in": let_in,
        "share_let_in": let_in / tries if tries else None,
    }


def comparison(attempts: Sequence[Record]) -> list[dict[str, Any]]:
    """For each model and figure, B's median by A's over blocks of time, and whether B is surely slower."""
    end = max(record.due for record in attempts) + 1e-9
    found = []
    for model in sorted({record.model for record in attempts}):
        for name in LIMITS:
            blocks: dict[int, dict[str, list[float]]] = defaultdict(lambda: {"A": [], "B": []})
            for record in attempts:
                if record.model == model and record.answered and name in record.figures():
                    blocks[int(record.due / end * BLOCKS)][record.build].append(record.figures()[name])
            ratios = [
                quantile(block["B"], 0.5) / quantile(block["A"], 0.5)
                for block in blocks.values()
                if block["A"] and block["B"]
            ]
            if len(ratios) < BLOCKS // 2:
                continue
            ratio, low, high = ratio_over_blocks(ratios, CONFIDENCE)
            slower = "slower" if low > 1 + MARGIN else "faster" if high < 1 / (1 + MARGIN) else ""
            found.append(
                {
                    "model": model,
                    "figure": name,
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "blocks": ratios,
                    "b_is": slower,
                }
            )
    return found


def git() -> str | None:
    """The commit of the checkout that the test ran from."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
