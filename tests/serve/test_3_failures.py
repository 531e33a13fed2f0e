"""What goes wrong, and that it stays small."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from starter_cluster import CHAT, EMBEDDINGS

from medley import cluster as local

STORY = {"model": CHAT, "messages": [{"role": "user", "content": "Tell a long story."}]}


def tokens_generated() -> float:
    """vLLM's own count of all tokens it made, from Ray's metrics."""
    targets = json.loads(Path("/tmp/ray/prom_metrics_service_discovery.json").read_text())[0]["targets"]
    total = 0.0
    for target in targets:
        text = httpx.get(f"http://{target}/metrics", trust_env=False, timeout=10).text
        total += sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith("ray_vllm_generation_tokens_total{")
        )
    return total


def wait_until_ready(http: httpx.Client) -> None:
    """The router hears of a change up to a second after it; until then it says 503, with Retry-After."""
    deadline = time.monotonic() + 10
    while not http.get("/readyz").is_success:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def settled_count() -> float:
    """The count once it stands still; Ray publishes every ten seconds."""
    count, since = tokens_generated(), time.monotonic()
    while time.monotonic() - since < 22:
        time.sleep(1)
        now = tokens_generated()
        if now != count:
            count, since = now, time.monotonic()
    return count


def test_a_client_that_leaves_stops_the_engine_within_a_few_tokens(cluster):
    before = settled_count()
    read = 0
    body = {**STORY, "stream": True, "max_tokens": 4000, "ignore_eos": True}
    with (
        httpx.Client(base_url=cluster.address, timeout=60, trust_env=False) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        for line in stream.iter_lines():
            read += line.startswith("data: {")
            if read == 20:
                break
    made = settled_count() - before
    assert read <= made + 2
    assert made <= read + 15


def test_a_killed_replica_comes_back_and_harms_no_other_model(cluster, http):
    victim = cluster.replica(EMBEDDINGS)
    chat_pid = cluster.pids()[CHAT]
    victim.kill()
    statuses: Counter[int] = Counter()
    back_after = None
    started = time.monotonic()
    while time.monotonic() - started < 90:
        answer = http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"})
        statuses[answer.status_code] += 1
        if answer.status_code == 503:
            assert "retry-after" in answer.headers
        chat = http.post("/v1/chat/completions", json={**STORY, "max_tokens": 2})
        assert chat.status_code == 200
        pids = cluster.pids()[EMBEDDINGS]
        if answer.status_code == 200 and pids and victim.pid not in pids:
            back_after = time.monotonic() - started
            break
        time.sleep(0.2)
    assert back_after is not None, statuses
    assert set(statuses) <= {200, 503}
    assert cluster.pids()[CHAT] == chat_pid
    wait_until_ready(http)
    print(f"back after {back_after:.1f} s; answers meanwhile: {dict(statuses)}")


def test_a_hundred_clients_get_200_or_429_and_no_memory_grows(cluster):
    pids = cluster.pids()

    async def one_round() -> Counter[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=cluster.address, timeout=300, trust_env=False, limits=limits) as http:

            async def client(number: int) -> list[int]:
                statuses = []
                for turn in range(3):
                    if (number + turn) % 2:
                        body = {"model": EMBEDDINGS, "input": f"sentence {number} {turn}"}
                        answer = await http.post("/v1/embeddings", json=body)
                    else:
                        answer = await http.post("/v1/chat/completions", json={**STORY, "max_tokens": 8})
                    if answer.status_code == 429:
                        assert int(answer.headers["retry-after"]) >= 1
                        assert answer.json()["error"]["code"] in ("queue_full", "too_busy")
                    statuses.append(answer.status_code)
                return statuses

            rounds = await asyncio.gather(*(client(number) for number in range(100)))
        return Counter(status for statuses in rounds for status in statuses)

    first = asyncio.run(one_round())
    after_first = local.memory_gib()
    second = asyncio.run(one_round())
    after_second = local.memory_gib()
    assert set(first) | set(second) <= {200, 429}, (first, second)
    assert first[200] > 100
    assert cluster.pids() == pids
    assert after_second < after_first * 1.03 + 0.05
    print(f"{dict(first)}, then {dict(second)}; {after_first:.2f} GiB, then {after_second:.2f} GiB")


def test_a_full_queue_says_429_with_retry_after(cluster):
    """Chat serves 64 at a time and queues 64 more; the rest is told to come back. Without promises: those refuse what
    would come too late long before the queue is full. The answers are streams that outlast the test, which hangs up.

    The replica is filled first: Serve counts a request as queued until it is handed over, also when there is room."""
    statuses: Counter[int] = Counter()
    body = {**STORY, "max_tokens": 1500, "ignore_eos": True, "stream": True}

    async def hold_a_stream(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200 or "retry-after" in answer.headers
            statuses[answer.status_code] += 1
            await asyncio.Event().wait()

    async def until(status: int, wanted: int) -> None:
        """So many have this status. Then three seconds more, to see those that are too many."""
        for _ in range(1200):
            if statuses[status] >= wanted:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)

    async def fill_the_queue() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=cluster.address, timeout=300, trust_env=False, limits=limits) as http:
            clients = [asyncio.create_task(hold_a_stream(http)) for _ in range(64)]
            await until(200, 64)
            clients += [asyncio.create_task(hold_a_stream(http)) for _ in range(136)]
            await until(429, 72)
            broken = [client.exception() for client in clients if client.done()]
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            assert not broken, broken

    with cluster.deployed(cluster.with_args("router", promises=None)):
        asyncio.run(fill_the_queue())
    assert statuses == {200: 64, 429: 72}, statuses


def test_the_idle_cluster_stays_within_six_gib(cluster):
    time.sleep(2)
    assert local.memory_gib() <= 6


def test_threads_of_models_that_share_the_machine_sleep_while_they_wait(cluster):
    for replicas in cluster.pids().values():
        for pid in replicas:
            assert psutil.Process(pid).environ()["OMP_WAIT_POLICY"] == "PASSIVE"


def test_an_engine_that_dies_is_replaced_and_requests_get_an_honest_503(cluster, http):
    """The worst case: vLLM's engine process is killed under its replica."""
    replica = cluster.replica(CHAT)
    engine = next(child for child in replica.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))
    orphans = replica.children(recursive=True)
    engine.kill()
    statuses: Counter[int] = Counter()
    started = time.monotonic()
    while time.monotonic() - started < 240:
        answer = http.post("/v1/chat/completions", json={**STORY, "max_tokens": 2})
        statuses[answer.status_code] += 1
        embedding = http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": "hi"})
        assert embedding.status_code == 200
        if answer.status_code == 200:
            break
        time.sleep(0.5)
    assert statuses[200] == 1, statuses
    assert set(statuses) == {200, 503}
    _, alive = psutil.wait_procs(orphans, timeout=30)
    assert not alive, [" ".join(process.cmdline()) for process in alive]
    print(f"back after {time.monotonic() - started:.0f} s: {dict(statuses)}")
