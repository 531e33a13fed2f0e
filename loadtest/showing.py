"""What a scenario would send and could prove."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console

from loadtest import scenario, targets
from loadtest.bounds import needed
from loadtest.scenario import EVERY_OTHER, WrongScenario
from loadtest.targets import WrongTargets
from loadtest.verdict import CONFIDENCE, Exit


def show_scenario(name: str, slo: Path, profile: str, rate: float | None, seconds: float | None) -> int:
    """Print it. Returns an exit code."""
    out = Console(highlight=False)
    try:
        chosen = scenario.load(name)
        promises = targets.promises(slo, profile)
        due = chosen.arrivals(1, rate, seconds)
        named = [part for part in chosen.parts if part.task != EVERY_OTHER]
        whole = sum(part.share for part in named)
        once = len(due) / 2 ** (chosen.looks - 1)
        out.print(f"{name}: {chosen.proves}")
        out.print(f"{once:.0f} requests in {seconds or chosen.seconds:g} s, up to {chosen.looks} looks")
        attempts: Counter[str] = Counter()
        for part in named:
            promise = promises.of(part.task, part.model or "")
            share = part.good if part.good is not None else promise.good
            attempts[part.task] += round(once * part.share / whole)
            limits = ", ".join(f"{key} {value:g}" for key, value in promise.limits.items())
            least = needed(share, CONFIDENCE) if share else 0
            can = "enough" if attempts[part.task] * 2 ** (chosen.looks - 1) >= least else "too few"
            out.print(f"  {part.task}: about {attempts[part.task]}; {share:.1%} good ({limits}) takes {least}: {can}")
        for part in chosen.parts:
            if part.task == EVERY_OTHER:
                out.print(f"  and each other task that the server has, with a share of {part.share:g} to {whole:g}")
    except (WrongScenario, WrongTargets) as error:
        out.print(str(error), style="red")
        return Exit.CONFIGURATION
    return Exit.PASSED
