"""Compares Medley with other servers on the same model, in one run: `python -m benchmarks.run` (about twelve minutes).

These servers run at the same time and take turns, so that disturbances of the machine affect all of them:

    medley      the starter cluster, through HAProxy and router, without promises: everybody is let in
    delivered   the same models through a second router, with the promises of serve_config.yaml: it refuses what would
                be late, and its clients come back when Retry-After said
    vllm        vLLM's own OpenAI server
    ray-llm     ray.serve.llm's own ingress (an application in the same Ray cluster)

All run vLLM on the same weights, with the same arguments, arithmetic and environment. An answer is good if it keeps the
promise of slo.yaml. The path without a model is compared with plain FastAPI under uvicorn. Ratios are medians over the
rounds; absolute numbers hold for this machine on this day. The result is written to
benchmarks/results/<date>-<host>.json and .md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import yaml

from benchmarks import load
from benchmarks.starter import ROOT, delivered_promises, router_of, starter
from deployments.servers.chat_vllm import engine_arguments, environment
from loadtest.targets import promises
from medley.local import cluster
from medley.local.home import client_environment, cluster_environment
from medley.local.preflight import DASHBOARD_PORT
from models.catalog import load_catalog
from models.specs import VariantSpec
from models.weights import locate

CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
MEDLEY, DELIVERED, VLLM, RAY_LLM, FASTAPI = (
    "http://127.0.0.1:8000",
    "http://127.0.0.1:8000/delivered",
    "http://127.0.0.1:8123",
    "http://127.0.0.1:8000/ray-llm",
    "http://127.0.0.1:8124",
)
ROUTER_AS_DELIVERED = "router-as-delivered"
TOKENS = 64
COLUMNS = (
    *("clients", "server", "tokens/s", "ratio", "first token p50", "added p50", "p99"),
    *("refused", "turned away", "failed", "good"),
)
# Clients at once, and requests in all, of one turn of a server.
CROWDS = ((1, 4), (8, 24), (32, 64))


@contextlib.contextmanager
def medley_cluster(folder: Path, with_ray_llm: bool) -> Iterator[dict[str, float]]:
    """The starter cluster without promises; when it is ready, a router with them is added, and ray.serve.llm. Yields
    seconds from the command to ready."""
    config = folder / "bench.yaml"
    config.write_text(yaml.safe_dump(starter(), sort_keys=False))
    medley = str(Path(sys.executable).parent / "medley")
    try:
        started = time.monotonic()
        subprocess.run([medley, "up", str(config), "--cpus", "8"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        times = {"medley_ready_s": time.monotonic() - started}
        times["medley_pss_gib"] = cluster.memory_gib()
        config.write_text(yaml.safe_dump(whole_document(with_ray_llm), sort_keys=False))
        started = time.monotonic()
        # Ray's own command: ours deploys nothing but Medley's applications.
        serve = [str(Path(sys.executable).parent / "serve"), "deploy", str(config)]
        of_client = {**os.environ, **client_environment(DASHBOARD_PORT)}
        subprocess.run(serve, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=of_client)
        wait_until_answered(f"{DELIVERED}/readyz")
        if with_ray_llm:
            wait_until_answered(f"{RAY_LLM}/v1/models")
            times["ray_llm_ready_s"] = time.monotonic() - started
        yield times
    finally:
        subprocess.run([medley, "down"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def whole_document(with_ray_llm: bool) -> dict[str, Any]:
    """The starter cluster without promises, a second router with them, and ray.serve.llm's application."""
    document = starter()
    delivered = router_of(starter(promises=delivered_promises()))
    document["applications"].append({**delivered, "name": ROUTER_AS_DELIVERED, "route_prefix": "/delivered"})
    if with_ray_llm:
        document["applications"].append(ray_llm_application())
    return document


def wait_until_answered(url: str, patience_s: float = 300) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False, timeout=10).is_success:
                return
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.5)


def ray_llm_application() -> dict:
    """ray.serve.llm's ingress, with its defaults except for settings that Medley changes too."""
    variant, weights = chat_variant()
    llm = {
        "model_loading_config": {"model_id": CHAT, "model_source": str(weights)},
        "engine_kwargs": same_arguments(variant),
        "accelerator_config": {"kind": "cpu"},
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "deployment_config": {"max_ongoing_requests": 64, "autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        "runtime_env": {"env_vars": same_environment(variant)},
    }
    return {
        "name": "ray-llm",
        "route_prefix": "/ray-llm",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {
            "llm_configs": [llm],
            "ingress_deployment_config": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        },
    }


def chat_variant() -> tuple[VariantSpec, Path]:
    """What all servers run, and its weights."""
    spec = load_catalog()[CHAT]
    return spec.variant(None), locate(spec, spec.variant(None))


def same_arguments(variant: VariantSpec) -> dict[str, Any]:
    """vLLM's arguments, as Medley's replica has them on this machine, its arithmetic among them."""
    from models.engines.cpu_arithmetic import vllm_dtype  # here, because it imports torch

    return engine_arguments(variant, vllm_dtype(variant))


def same_environment(variant: VariantSpec) -> dict[str, str]:
    """What Medley's replica has in its environment for vLLM: also that threads sleep while they wait."""
    return {"OMP_WAIT_POLICY": cluster_environment()["OMP_WAIT_POLICY"], **environment(variant), **variant.env}


def flags(arguments: dict[str, Any]) -> list[str]:
    """Arguments of vLLM's engine as words of its command line. What is false there is so without a word."""
    words = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


@contextlib.contextmanager
def bare_vllm() -> Iterator[dict[str, float]]:
    """vLLM's own server. Yields seconds to ready and its memory."""
    variant, weights = chat_variant()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(weights)]
    command += ["--served-model-name", CHAT, "--host", "127.0.0.1", "--port", "8123", "--no-enable-log-requests"]
    command += ["--disable-uvicorn-access-log", *flags(same_arguments(variant))]
    with running(command, f"{VLLM}/health", {**os.environ, **same_environment(variant)}) as (process, seconds):
        yield {"vllm_ready_s": seconds, "vllm_pss_gib": cluster.pss_gib(family(process))}


@contextlib.contextmanager
def plain_fastapi() -> Iterator[None]:
    """A minimal Python web server: one route, no model."""
    command = [sys.executable, "-m", "uvicorn", "benchmarks.plain:app", "--port", "8124", "--log-level", "warning"]
    with running(command, f"{FASTAPI}/healthz", dict(os.environ)):
        yield


@contextlib.contextmanager
def running(command: list[str], health: str, env: dict[str, str]) -> Iterator[tuple[psutil.Process, float]]:
    """Run a server during the block. Yields, once it answers, the seconds that its start took."""
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log) as process,
    ):
        whole = psutil.Process(process.pid)
        try:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(health, trust_env=False).is_success:
                        break
                if process.poll() is not None or time.monotonic() - started > 240:
                    log.seek(0)
                    raise RuntimeError(log.read().decode()[-3000:])
                time.sleep(0.2)
            yield whole, time.monotonic() - started
        finally:
            for member in reversed(family(whole)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.terminate()
            psutil.wait_procs(family(whole), timeout=20)


def family(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def cpu_by_role() -> dict[str, float]:
    """CPU seconds used so far by the parts of the cluster."""
    seconds: dict[str, float] = {}
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            role = role_of(" ".join(process.cmdline()))
            seconds[role] = seconds.get(role, 0.0) + times.user + times.system
    return seconds


def role_of(command: str) -> str:
    for mark, role in (
        ("ServeReplica:router:", "router"),
        (f"ServeReplica:{ROUTER_AS_DELIVERED}:", "router as delivered"),
        (f"ServeReplica:{EMBEDDINGS}", "embedding replica"),
        (f"ServeReplica:{CHAT}", "chat replica"),
        ("haproxy -", "haproxy"),
        ("VLLM::", "vllm engine"),
    ):
        if mark in command:
            return role
    return "ray"


def measure(clients: int, requests: int, send) -> load.Result:
    return asyncio.run(load.run_clients(clients, requests, send))


def chat_rounds(targets: dict[str, str], rounds: int, crowds: tuple[tuple[int, int], ...] = CROWDS) -> dict:
    """Tokens per second, time to the first token, refusals and good answers at 1, 8 and 32 clients, the targets taking
    turns."""
    results: dict = {}
    for clients, requests in crowds:
        found: dict[str, dict[str, list[float]]] = {name: {} for name in targets}
        for number in range(rounds):
            order = list(targets) if number % 2 == 0 else list(reversed(targets))
            for name in order:
                result = measure(clients, requests, load.chat_stream(targets[name], CHAT, TOKENS))
                for figure, value in figures_of(result).items():
                    found[name].setdefault(figure, []).append(value)
            print(
                f"  {clients} clients, round {number + 1}: "
                + ", ".join(f"{n} {found[n]['rate'][-1]:.0f}" for n in targets)
            )
        results[clients] = found
    return results


def figures_of(result: load.Result) -> dict[str, float]:
    return {
        "rate": result.rate(),
        "first_p50": result.quantile("first", 0.5),
        "first_p99": result.quantile("first", 0.99),
        "refusals": result.refusals,
        "turned_away": result.turned_away,
        "failures": result.failures,
        "good": result.good(promised()),
    }


def promised() -> dict[str, float]:
    """The limits of a good chat."""
    return promises(ROOT / "slo.yaml", delivered_promises()).of("chat", CHAT).limits


def cpu_per_request(requests: int, clients: int, send) -> dict:
    """Milliseconds of CPU per request, by part, minus the use of the idle cluster in the same time; and latency."""
    before, started = cpu_by_role(), time.monotonic()
    time.sleep(5)
    after, pause = cpu_by_role(), time.monotonic() - started
    idle = {role: (after[role] - before.get(role, 0)) / pause for role in after}
    before = cpu_by_role()
    result = measure(clients, requests, send)
    after = cpu_by_role()
    used = {
        role: max(0.0, (after[role] - before.get(role, 0) - idle.get(role, 0) * result.seconds) / requests * 1000)
        for role in after
    }
    return {
        "cpu_ms": {role: round(value, 3) for role, value in used.items() if value > 0.005},
        "cpu_ms_total": round(sum(used.values()), 3),
        "p50_ms": round(result.quantile("total", 0.5), 2),
        "p99_ms": round(result.quantile("total", 0.99), 2),
        "per_s": round(len(result.samples) / result.seconds, 1),
        "failures": result.failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-ray-llm", action="store_true")
    options = parser.parse_args()
    report: dict = {
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, {psutil.virtual_memory().total / (1 << 30):.0f} GiB, {platform.platform()}",
        "command": "python -m benchmarks.run " + " ".join(sys.argv[1:]),
        "tokens_per_answer": TOKENS,
        "arguments": same_arguments(chat_variant()[0]),
        "promised": promised(),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        print("Starting the servers")
        report |= servers.enter_context(medley_cluster(Path(folder), not options.without_ray_llm))
        report |= servers.enter_context(bare_vllm())
        servers.enter_context(plain_fastapi())
        targets = {"medley": MEDLEY, "delivered": DELIVERED, "vllm": VLLM}
        targets |= {} if options.without_ray_llm else {"ray-llm": RAY_LLM}
        for url in targets.values():
            measure(8, 8, load.chat_stream(url, CHAT, TOKENS))
        print("Chat, streamed")
        report["chat"] = chat_rounds(targets, options.rounds)
        print("CPU per request")
        measure(8, 200, load.embedding(MEDLEY, EMBEDDINGS))
        report["embeddings"] = cpu_per_request(2000, 8, load.embedding(MEDLEY, EMBEDDINGS))
        report["chat_whole"] = cpu_per_request(40, 4, load.chat_whole(MEDLEY, CHAT, 16))
        print("The path without a model")
        report["no_model"] = {
            name: [cpu_or_latency(url) for _ in range(3)] for name, url in (("medley", MEDLEY), ("fastapi", FASTAPI))
        }
    write(report)


def cpu_or_latency(url: str) -> dict[str, float]:
    result = measure(1, 1000, load.get(url, "/healthz"))
    return {"p50_ms": round(result.quantile("total", 0.5), 3), "p99_ms": round(result.quantile("total", 0.99), 3)}


def write(report: dict) -> None:
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{report['date']}-cpu{os.cpu_count()}"
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1))
    text = as_markdown(report)
    (folder / f"{name}.md").write_text(text)
    print(text)


def as_markdown(report: dict) -> str:
    """The report as tables."""
    lines = [f"# {report['date']}: {report['machine']}", "", f"`{report['command']}`", ""]
    limits = ", ".join(f"{name} {limit:g}" for name, limit in report["promised"].items())
    lines += [
        "Tokens/s, and time to the first token in ms (medians over the rounds; ratio to vllm round by round).",
        "`medley` has no promises, `delivered` has those of serve_config.yaml. Refused says how often in all rounds;",
        f"turned away are requests that were not let in within {load.PATIENCE_S:.0f} s.",
        f"Good is the share of requests whose answer kept {limits}.",
        "",
        f"All servers run vLLM with `{json.dumps(report['arguments'])}`.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for clients, found in report["chat"].items():
        base = found["vllm"]
        for name, values in found.items():
            ratio = median(a / b for a, b in zip(values["rate"], base["rate"], strict=True))
            added = median(a - b for a, b in zip(values["first_p50"], base["first_p50"], strict=True))
            cells = [
                clients,
                name,
                f"{median(values['rate']):.1f}",
                f"{ratio:.3f}",
                f"{median(values['first_p50']):.1f}",
            ]
            cells += [f"{added:+.1f}", f"{median(values['first_p99']):.1f}"]
            cells += [f"{sum(values[key]):.0f}" for key in ("refusals", "turned_away", "failures")]
            cells.append(f"{median(values['good']):.0%}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "CPU per request in ms, idle use taken off", ""]
    for name in ("embeddings", "chat_whole"):
        facts = report[name]
        by_size = sorted(facts["cpu_ms"].items(), key=lambda item: -item[1])
        parts = ", ".join(f"{role} {value}" for role, value in by_size)
        lines.append(
            f"- {name}: total {facts['cpu_ms_total']} ({parts}); {facts['per_s']}/s, "
            f"p50 {facts['p50_ms']} ms, p99 {facts['p99_ms']} ms"
        )
    lines += ["", "Without a model, GET /healthz, one client, ms", ""]
    for name, runs in report["no_model"].items():
        p50, p99 = median(run["p50_ms"] for run in runs), median(run["p99_ms"] for run in runs)
        lines.append(f"- {name}: p50 {p50:.2f}, p99 {p99:.2f}")
    lines += ["", "Start and size", ""]
    lines += [f"- {key}: {value:.1f}" for key, value in report.items() if key.endswith(("_s", "_gib"))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
