"""Clients that leave, clients in crowds, and models that refuse and follow what is asked. Nothing is deployed."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

import httpx
from cluster_metrics import vllm_tokens
from fake_models import (
    AT_ONCE,
    FAKE_CHAT,
    MOST_REPLICAS,
    PROMISED,
    PROMISED_S,
    QUEUE,
    SECONDS_PER_WORD,
    SLEEPER,
    WORDS_OF_A_SECOND,
    asked,
)
from local_cluster import CHAT, EMBEDDINGS, REQUEST_S
from patience import patience, until, wait_until

from deployments.autoscaling import PromisePolicy
from deployments.servers.pace import Work
from medley.local import cluster as local
from medley.simulation.cluster import Settings, simulate
from medley.simulation.replica import Machine

STORY = {"model": CHAT, "messages": [{"role": "user", "content": "Tell a long story."}]}
CHATS = "/v1/chat/completions"


def crowd(address: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=address, timeout=patience(REQUEST_S), trust_env=False, limits=limits)


def test_a_client_that_leaves_stops_the_engine(cluster, http):
    """By vLLM's count of tokens, once it has stood still for several times as long as it takes to publish it. What was
    asked before was answered long ago: the tests of images lie between."""
    before, read = vllm_tokens(), 0
    with http.stream("POST", CHATS, json={**STORY, "stream": True, "max_tokens": 4000, "ignore_eos": True}) as stream:
        assert stream.status_code == 200, stream.read()
        for line in stream.iter_lines():
            read += line.startswith("data: {")
            if read == 20:
                break
    assert read == 20
    counts: list[float] = []

    def stands_still() -> bool:
        counts.append(vllm_tokens())
        return counts[-1] >= before + read - 2 and counts[-12:] == [counts[-1]] * 12

    wait_until(stands_still, "vLLM's count of tokens to stand still", seconds=120, every=0.5)
    made = counts[-1] - before
    print(f"\nread {read} of 4000 tokens; {made:.0f} were made")
    assert made <= read + 100  # what is made until the news is there, on a machine that makes the news wait


def test_a_hundred_clients_are_all_answered_and_no_memory_grows(cluster):
    """Fifty clients chat and as many embed: fewer than may wait for a model, so none has to be refused. Serve counts a
    request as waiting until it is handed over, also when there is room."""
    pids = cluster.pids()

    async def one_round() -> Counter[int]:
        async with crowd(cluster.address) as http:

            async def client(number: int) -> list[int]:
                statuses = []
                for turn in range(3):
                    if number % 2:
                        body = {"model": EMBEDDINGS, "input": f"sentence {number} {turn}"}
                        answer = await http.post("/v1/embeddings", json=body)
                    else:
                        answer = await http.post(CHATS, json={**STORY, "max_tokens": 8})
                    statuses.append(answer.status_code)
                return statuses

            rounds = await asyncio.gather(*(client(number) for number in range(100)))
        return Counter(status for statuses in rounds for status in statuses)

    assert asyncio.run(one_round()) == {200: 300}
    after_first = local.memory_gib()
    assert asyncio.run(one_round()) == {200: 300}
    after_second = local.memory_gib()
    print(f"\n{after_first:.2f} GiB, then {after_second:.2f} GiB")
    later = cluster.pids()  # of others, some may have fallen asleep meanwhile
    assert {app: later[app] for app in (CHAT, EMBEDDINGS, "router")} == {
        app: pids[app] for app in (CHAT, EMBEDDINGS, "router")
    }
    assert after_second < after_first * 1.03 + 0.05


def test_a_full_queue_says_429_with_retry_after(cluster):
    """Answers are streams that outlast the test, which hangs up. The replica is filled first: Serve counts a request as
    queued until it is handed over, also when there is room."""
    statuses: Counter[int] = Counter()
    codes: Counter[str] = Counter()
    too_many = 5
    long_answer = asked(FAKE_CHAT, words=100_000, stream=True)

    async def hold_a_stream(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", CHATS, json=long_answer) as answer:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                codes[json.loads(await answer.aread())["error"]["code"]] += 1
            statuses[answer.status_code] += 1
            await asyncio.Event().wait()

    async def fill_the_queue() -> None:
        async with crowd(cluster.address) as http:
            clients = [asyncio.create_task(hold_a_stream(http)) for _ in range(AT_ONCE)]
            await until(lambda: statuses[200] == AT_ONCE, "the replica to be full")
            clients += [asyncio.create_task(hold_a_stream(http)) for _ in range(QUEUE + too_many)]
            await until(lambda: statuses[429] >= too_many, "those that are too many to be refused")
            await asyncio.sleep(patience(1))  # to see one that is wrongly refused, or let in
            broken = [client.exception() for client in clients if client.done()]
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            assert not broken, broken

    asyncio.run(fill_the_queue())
    assert statuses == {200: AT_ONCE, 429: too_many}
    assert set(codes) == {"queue_full"}


def test_what_would_come_too_late_is_refused_and_the_rest_is_not_late(cluster, http):
    """Answers take a second, four at once, and sixteen a second are asked for: after the first second, whoever is let
    in to wait like everybody else would have its first word later than is promised."""
    body = asked(PROMISED, WORDS_OF_A_SECOND, stream=True)
    firsts: list[float] = []
    refused: list[httpx.Response] = []

    async def one(clients: httpx.AsyncClient) -> None:
        began = time.monotonic()
        async with clients.stream("POST", CHATS, json=body) as answer:
            if answer.status_code == 429:
                await answer.aread()
                refused.append(answer)
                return
            assert answer.status_code == 200, await answer.aread()
            lines = answer.aiter_lines()
            async for line in lines:
                if line.startswith("data: "):
                    break
            firsts.append(time.monotonic() - began)
            assert [line async for line in lines if line][-1] == "data: [DONE]"

    async def ask(number: int, every: float) -> None:
        async with crowd(cluster.address) as clients, asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(one(clients))
                await asyncio.sleep(every)

    for together in (1, 2, AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE):  # from which the router learns what a queue costs
        asyncio.run(ask(together, every=0))
    estimate = http.post("/v1/estimate", json=body).json()
    assert estimate["admitted"]
    assert estimate["observations"] > 8
    assert 0 < estimate["time_to_first_token_s"] < estimate["duration_s"]
    assert estimate["duration_s"] > WORDS_OF_A_SECOND * SECONDS_PER_WORD / 2

    firsts.clear()
    refused.clear()
    asyncio.run(ask(200, every=1 / 16))
    late = sum(first > PROMISED_S for first in firsts) / len(firsts)
    print(f"\n{len(firsts)} answered, {len(refused)} refused, {late:.1%} of the answered late")
    assert len(refused) + len(firsts) == 200
    assert len(refused) > 50
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert {one.json()["error"]["code"] for one in refused} == {"at_capacity"}  # it may have one replica
    # Without admission all but the first dozen would be. How good its predictions are is tested on a virtual clock.
    assert late < 0.5
    assert http.post(CHATS, json=asked(PROMISED, 1), headers={"X-Deadline": "60"}).status_code == 200


def test_replicas_follow_a_spike_as_the_simulator_says_and_leave_without_a_loss(cluster):
    """Eight requests a second, of a second each, four at once on a replica: two are not enough to keep a place free."""
    wait = {"prefer": f"wait={patience(60):.0f}"}
    body, wanted, arrivals = asked(SLEEPER, WORDS_OF_A_SECOND), 3, []
    running: list[int] = []

    async def watched(reached: Callable[[int], bool], what: str) -> None:
        async def look() -> bool:
            running.append(len((await asyncio.to_thread(cluster.pids))[SLEEPER]))
            return reached(running[-1])

        await until(look, what, seconds=120, every=0.3)

    async def at_a_rate(http: httpx.AsyncClient, rate: float, until_done: Awaitable[None]) -> Counter[int]:
        watching = asyncio.ensure_future(until_done)
        answers = []
        began = time.monotonic()
        for number in count():
            if watching.done():
                break
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            arrivals.append(time.monotonic())
            answers.append(asyncio.ensure_future(http.post(CHATS, json=body, headers=wait)))
        watching.result()
        return Counter(answer.status_code for answer in await asyncio.gather(*answers))

    async def spike() -> Counter[int]:
        async with crowd(cluster.address) as http:
            found = await at_a_rate(http, 1, watched(lambda now: now >= 1, "a first replica"))
            spiked = watched(lambda now: now >= wanted, f"{wanted} replicas")
            found += await at_a_rate(http, 8, spiked)
            return found + await at_a_rate(http, 1, watched(lambda now: now == 1, "one replica again"))

    statuses = asyncio.run(spike())
    settings = Settings(
        Machine(1 / 64, 0.0, 1e-9, noise=0.0, sequences=AT_ONCE),
        at_once=AT_ONCE,
        start_s=5,
        max_replicas=MOST_REPLICAS,
        upscale_delay_s=1,
        downscale_delay_s=2,
        look_back_s=2,
    )
    policy = PromisePolicy(wait_s=1, concurrency=AT_ONCE, service_s=1)
    simulated = simulate([one - arrivals[0] for one in arrivals], [Work(1.0, 64.0)] * len(arrivals), policy, settings)
    most = max(one[1] for one in simulated.replicas)
    print(f"\n{statuses}; most replicas {max(running)}, simulated {most}")
    assert set(statuses) == {200}
    assert abs(max(running) - most) <= 1
