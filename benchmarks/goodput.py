"""Good answers a second with admission, beside limits on concurrency: `python -m benchmarks.goodput --traffic mixed`.

The same traffic, an open loop, goes to the starter cluster several times: to the server with promises (`medley`), and
to the server without them behind a client that limits the number of requests under way: at the best fixed number, which
is searched, by Netflix's gradient2 and by Envoy's adaptive concurrency. Meanwhile the client asks a bare server, too,
which does nothing: what that takes, the machine and the client add to the seconds of a refusal. A request is good if it
keeps every limit that slo.yaml promises, counted from when it was due. How much the server can do is measured first, in
a closed loop, so that rates are multiples of it. Each model that is asked runs as one replica, and no other runs unless
--whole is given.

Every run is added to benchmarks/results/<date>-cpu<N>-goodput.json. Exit code 1: something that must be shown was not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from benchmarks import traffic as traffics
from benchmarks.clusters import ROOT, Cluster, Servers, busy_cores, free_port, preferred, starter_config
from benchmarks.limiters import EnvoyGradient, Fixed, Gradient2, Limiter, best_key, best_of
from benchmarks.open_loop import beside_a_bare_server, closed_loop, connected, open_loop
from benchmarks.outcomes import Criterion, Outcome, figures, judged, judged_estimates, known, of_estimates
from benchmarks.run import running
from benchmarks.traffic import TRAFFICS, Traffic
from loadtest.bounds import quantile
from loadtest.report import drawing
from models.catalog import load_catalog
from models.slo import Targets, load_slo

SIDES = ("medley", "returns", "off", "fixed", "gradient2", "envoy")
WITH_PROMISES = ("medley", "returns", "estimates")
CURVE = (0.5, 1.0, 2.0, 4.0, 10.0)
# Every third request of a run is asked about before it is sent.
ESTIMATED = 3


@dataclass(frozen=True, slots=True)
class Fits:
    """What just fits: requests a second, and how many are under way then."""

    rate: float
    clients: int = 8


class Bench:
    """One traffic, at one multiple of what fits.

    Args:
        fits: by kind; what is missing is measured, and added.

    Attributes:
        estimated: requests with what was said of them before, of a run that asks for it.
    """

    def __init__(
        self, name: str, times: float, servers: Cluster | Servers, fits: dict[str, Fits], given: argparse.Namespace
    ):
        self.name, self.times, self.servers, self.fits, self.given = name, times, servers, fits, given
        self.traffic: Traffic = TRAFFICS[name]
        task = load_catalog()[self.traffic.model].task
        self.promise: Targets = load_slo(given.slo).targets(task, self.traffic.model, given.promises)
        self.estimated: list[Outcome] = []

    def runs(self, sides: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The figures of each side. Those without promises come first, so that the cluster changes once."""
        found: dict[str, dict[str, Any]] = {}
        for kind in self.traffic.kinds:
            if not self.traffic.burst and self.given.rate is None and kind not in self.fits:
                self.fits[kind] = self.measured(kind)
        for side in sorted(sides, key=lambda one: one in WITH_PROMISES):
            if side in WITH_PROMISES and self.traffic.cold:
                self.servers.stop()
            found[side] = self.best_fixed() if side == "fixed" else self.run(side, limiter_of(side))
        return found

    def measured(self, kind: str) -> Fits:
        """All that are answered at the concurrency with the most good answers."""
        answered: dict[int, float] = {}
        sizes, words = random.Random(f"{self.given.seed} closed"), random.Random(salt())

        def draw() -> traffics.Asked:
            size = traffics.size_drawn(kind, sizes, self.given.traces)
            return traffics.asked(0.0, kind, size, words)

        async def level(clients: int) -> float:
            async with connected(address, self.promise, self.given.patience) as client:
                good, answered[clients] = await closed_loop(client, draw, clients, self.given.closed_seconds)
            print(f"  {kind}, {clients} clients: {good:.2f} good of {answered[clients]:.2f} a second", flush=True)
            return good

        address = self.servers.address(False)
        with preferred():
            good = asyncio.run(best_of(level, 8, gain=1.1, refined=False))
        clients = best_key(good if max(good.values()) > 0 else answered)
        return Fits(answered[clients], clients)

    def best_fixed(self) -> dict[str, Any]:
        """The figures at the best fixed concurrency, and what was found at the others."""
        if self.given.fixed:
            return self.run("fixed", Fixed(self.given.fixed), limit=self.given.fixed)
        found: dict[int, dict[str, Any]] = {}

        async def measure(limit: int) -> float:
            found[limit] = await self.one_run("fixed", Fixed(limit), {"limit": limit})
            return found[limit]["good_per_s"]

        self.servers.address(False)
        with preferred():
            good = asyncio.run(best_of(measure, self.start()))
        return found[best_key(good)] | {"searched": dict(sorted(good.items()))}

    def run(self, side: str, limiter: Limiter, **facts: Any) -> dict[str, Any]:
        # What one side has taught the router about clients that come back is wrong for the next one.
        self.servers.address(side in WITH_PROMISES, anew=side in WITH_PROMISES)
        with preferred():
            return asyncio.run(self.one_run(side, limiter, facts))

    async def one_run(self, side: str, limiter: Limiter, facts: dict[str, Any]) -> dict[str, Any]:
        """Send the schedule once, and keep the figures."""
        given = self.given
        schedule = traffics.schedule(
            self.traffic, self.rates(), given.seconds, given.seed, salt=salt(), traces=given.traces
        )
        address = self.servers.address(side in WITH_PROMISES)
        async with (
            connected(address, self.promise, given.patience) as client,
            beside_a_bare_server(client, given.bare) as bare_s,
        ):
            outcomes = await open_loop(
                client,
                schedule,
                limiter,
                until_s=given.seconds if side == "returns" else 0.0,
                estimated=range(0, len(schedule), ESTIMATED) if side == "estimates" else (),
            )
        found = facts | {"traffic": self.name, "times": self.times, "side": side, "rates": self.rates()}
        found |= {"fits": {kind: self.fits[kind].rate for kind in self.traffic.kinds if kind in self.fits}}
        found |= figures(outcomes, given.seconds, self.promise)
        found |= {"bare_p50_s": known(quantile(bare_s, 0.5)), "bare_p99_s": known(quantile(bare_s, 0.99))}
        if side == "estimates":
            found["estimates"] = of_estimates(outcomes)
            self.estimated = outcomes
        keep(given, found)
        limit = f" {facts['limit']}" if "limit" in facts else ""
        print(f"  {side}{limit}: {found['good_per_s']:.2f} good a second", flush=True)
        return found

    def rates(self) -> dict[str, float]:
        if self.traffic.burst:
            return {}
        return {kind: self.given.rate or self.times * self.fits[kind].rate for kind in self.traffic.kinds}

    def start(self) -> int:
        """Where the search for the best fixed concurrency begins."""
        return self.given.clients or max(
            (self.fits[kind].clients for kind in self.traffic.kinds if kind in self.fits), default=8
        )


@contextlib.contextmanager
def bare_server() -> Iterator[str]:
    """A server that does nothing, in a process of its own. Yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "uvicorn", "benchmarks.sink:app", "--port", str(port), "--log-level", "critical"]
    with running(command, url, dict(os.environ)):
        yield url


def limiter_of(side: str) -> Limiter:
    return {"gradient2": Gradient2, "envoy": EnvoyGradient}.get(side, Limiter)()


def salt() -> str:
    return str(time.time_ns())


def keep(given: argparse.Namespace, found: dict[str, Any]) -> None:
    """Add a run to the file of results."""
    runs = json.loads(given.results.read_text())["runs"] if given.results.exists() else []
    command = "python -m benchmarks.goodput " + " ".join(sys.argv[1:])
    facts = {
        "at": datetime.now().isoformat(timespec="seconds"),
        "command": command,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "commit": commit(),
        "seconds": given.seconds,
        "seed": given.seed,
        "routers": given.routers,
        "halved": given.halved,
    }
    new = given.results.with_suffix(".new")
    new.write_text(json.dumps({"runs": [*runs, facts | found]}, indent=1) + "\n")
    new.replace(given.results)


def commit() -> str | None:
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def table(found: dict[str, dict[str, Any]]) -> str:
    """The sides of one traffic beside each other."""
    lines = [
        "| side | good/s | good | late | refused | given up | failed | refusal p50, p99 ms | bare server p50, p99 ms "
        "| longest wait : promise | let in of those who came back |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for side, one in found.items():
        name = f"fixed at {one['limit']}" if side == "fixed" else side
        refusals, bare = (milliseconds(one, what) for what in ("refusal", "bare"))
        back = f"{one['let_in_share']:.0%} of {one['came_back']}" if one["came_back"] else ""
        cells = [name, f"{one['good_per_s']:.2f}", f"{one['good']} of {one['requests']}"]
        cells += [one["late"], one["refused"], one["given_up"], one["failed"], refusals, bare]
        cells += [f"{one['longest_wait']:.2f}", back]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def milliseconds(one: dict[str, Any], what: str) -> str:
    """The median and the 99th percentile; empty if there was none."""
    seconds = (one[f"{what}_p50_s"], one[f"{what}_p99_s"])
    return "" if None in seconds else ", ".join(f"{each * 1000:.0f}" for each in seconds)


def scenario(bench: Bench) -> bool:
    """Run one traffic at one multiple and print what was found. Returns whether all that must be shown was."""
    print(f"{bench.name}, {bench.times:g} times what fits, {bench.given.seconds:g} s", flush=True)
    found = bench.runs(bench.given.sides)
    print(table(found))
    for what, one in found.items():
        if one["why"]:
            print(f"{what} failed: {one['why']}")
        if "estimates" in one:
            print("estimates:", json.dumps(one["estimates"]))
    criteria = judged(found["medley"], found.get("fixed"), found.get("returns")) if "medley" in found else []
    print(*criteria, sep="\n", flush=True)
    return all(one.kept for one in criteria)


def estimates_of_all(benches: Sequence[Bench]) -> bool:
    """How near estimates were at all the multiples together. Returns whether that was as near as it must be."""
    found = of_estimates(chain.from_iterable(bench.estimated for bench in benches))
    times = [bench.times for bench in benches]
    keep(benches[0].given, {"traffic": benches[0].name, "times": times, "side": "estimates", "estimates": found})
    print(f"{benches[0].name}, estimates at all multiples:", json.dumps(found))
    criteria = judged_estimates(found)
    print(*criteria, sep="\n", flush=True)
    return all(one.kept for one in criteria)


def curve(benches: Sequence[Bench], file: Path) -> bool:
    """Goodput against the rate, with and without admission, as a plot. Returns whether it never falls below 0.8 of what
    it was at a lower rate."""
    found: dict[str, dict[float, dict[str, Any]]] = {"off": {}, "medley": {}}
    for side, runs in found.items():
        for bench in benches:
            runs[bench.times] = bench.runs([side])[side]
    for side, runs in found.items():
        print(f"{side}: " + ", ".join(f"{times:g}x {one['good_per_s']:.2f}" for times, one in runs.items()))
    file.write_text(plot(benches[0].name, found))
    print(f"written: {file}")
    good = [one["good_per_s"] for _, one in sorted(found["medley"].items())]
    least = Criterion("goodput : the best at a lower rate, at worst", least_kept(good), 0.8, at_least=True)
    print(least)
    return least.kept


def least_kept(figures: Sequence[float]) -> float:
    """The lowest figure as a share of the best one up to it."""
    return min(one / best for one, best in zip(figures, accumulate(figures, max), strict=True))


def plot(name: str, found: dict[str, dict[float, dict[str, Any]]]) -> str:
    """Good answers a second, by how many times what fits was asked."""
    figure, axes = drawing.canvas(f"Traffic: {name}", "asked, as a multiple of what fits", "good answers a second")
    looks = {
        "medley": ("with admission", drawing.GOOD, "-"),
        "off": ("without", drawing.BAD, "--"),
    }
    for side, (label, colour, line) in looks.items():
        points = found[side]
        good = [one["good_per_s"] for one in points.values()]
        axes.plot(list(points), good, marker="o", markersize=4, label=label, color=colour, linestyle=line)
    drawing.logarithmic(axes)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    return drawing.svg(figure)


def rate_of_kind(text: str) -> tuple[str, float]:
    kind, _, rate = text.partition("=")
    return kind, float(rate)


def options(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", nargs="+", choices=[*TRAFFICS, "all"], default=["mixed"])
    parser.add_argument("--times", nargs="+", type=float, default=[2.0], help="the rate, as multiples of what fits")
    parser.add_argument("--rate", type=float, help="requests a second, instead of --times")
    parser.add_argument("--seconds", type=float, default=40, help="of one run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="medley, fixed, gradient2 and envoy unless given")
    parser.add_argument("--returns", action="store_true", help="one more run, whose clients come back when told")
    parser.add_argument("--estimates", action="store_true", help="/v1/estimate beside what requests take; only that")
    parser.add_argument("--curve", action="store_true", help="with and without admission at 0.5 to 10 times; a plot")
    parser.add_argument("--plot", type=Path, help="where the curve goes; docs/images/goodput-TRAFFIC.svg unless given")
    parser.add_argument("--capacity", nargs="+", type=rate_of_kind, default=[], metavar="KIND=RATE",
                        help="requests a second that just fit, instead of a closed loop")  # fmt: skip
    parser.add_argument("--clients", type=int, help="where the search for the best fixed concurrency begins")
    parser.add_argument("--fixed", type=int, help="the best fixed concurrency, instead of a search")
    parser.add_argument("--closed-seconds", type=float, default=12, help="of each level of the closed loop")
    parser.add_argument("--patience", type=float, default=2.5, help="clients leave after so many times the promise")
    parser.add_argument("--routers", type=int, default=1)
    parser.add_argument("--halved", action="store_true", help="a busy loop on each core meanwhile")
    parser.add_argument("--whole", action="store_true", help="all models of the starter cluster run")
    parser.add_argument("--url", help="a server that runs, with promises, instead of a cluster of our own")
    parser.add_argument("--without-url", help="the same without promises; needed for the sides that limit concurrency")
    parser.add_argument("--promises", default="cpu", help="the profile of slo.yaml")
    parser.add_argument("--slo", type=Path, default=ROOT / "slo.yaml")
    parser.add_argument(
        "--traces", type=Path, default=ROOT.parent / "shared" / "traces", help="folder of Azure's traces"
    )
    name = f"{date.today().isoformat()}-cpu{os.cpu_count()}-goodput.json"
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / name)
    given = parser.parse_args(words)
    if given.url and not given.without_url and (given.curve or {*(given.sides or ())} - {*WITH_PROMISES}):
        parser.error("--without-url says where the server without promises is")
    if "all" in given.traffic:
        given.traffic = list(TRAFFICS)
    alone = ["medley"] if given.url and not given.without_url else ["medley", "fixed", "gradient2", "envoy"]
    given.sides = (given.sides or alone) + ["returns"] * given.returns
    if given.estimates:
        given.sides = ["estimates"]
    if given.rate is not None:
        given.times = given.times[:1]
    return given


def main() -> int:
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    kept, fits = True, {kind: Fits(rate) for kind, rate in given.capacity}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end:
        if given.url:
            servers: Cluster | Servers = Servers(given.url, given.without_url or given.url)
        else:
            models = {TRAFFICS[one].model for one in given.traffic}
            servers = Cluster(Path(folder), given.promises, starter_config(models, given.whole, given.routers))
        end.callback(servers.stop)
        end.enter_context(busy_cores(given.halved))
        given.bare = end.enter_context(bare_server())
        for name in given.traffic:
            if missing := traffics.missing_trace(TRAFFICS[name], given.traces):
                print(f"{name} is left out: {missing} is not there. --traces names the folder of the traces.")
                continue
            benches = [Bench(name, times, servers, fits, given) for times in (CURVE if given.curve else given.times)]
            if given.curve:
                kept &= curve(benches, given.plot or ROOT / "docs" / "images" / f"goodput-{name}.svg")
                continue
            for bench in benches:
                kept &= scenario(bench)
            if given.estimates:
                kept &= estimates_of_all(benches)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
