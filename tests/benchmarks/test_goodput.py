"""The judge of admission: its limiters on a simulated server, its schedules, and what it says became of a request."""

import asyncio
import gc
import heapq
import itertools
import json
import math
import os
import random

import aiohttp
import pytest
from aiohttp import web

from benchmarks import clusters, goodput, traffic
from benchmarks.clusters import CLIENT, preferred, session_niceness, starter_config
from benchmarks.limiters import EnvoyGradient, Fixed, Gradient2, Limiter, LongAverage, best_key, best_of
from benchmarks.open_loop import BARE_EVERY_S, beside_a_bare_server, closed_loop, connected, open_loop
from benchmarks.outcomes import (
    FAILED,
    GIVEN_UP,
    GOOD,
    LATE,
    REFUSED,
    Outcome,
    figures,
    judged,
    judged_estimates,
    of_estimates,
)
from benchmarks.traffic import TRAFFICS, Asked
from models.catalog import load_catalog
from models.slo import Targets
from models.tasks.images import TASK as IMAGES

CHAT = Targets(time_to_first_token_s=2.0, time_per_output_token_s=0.25, duration_s=120, good=0.99, availability=0.999)
WHOLE = Targets(duration_s=1.0, good=0.99, availability=0.999)
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{second:02}.6805900,{100 * second},{2 * second}\n" for second in range(1, 50)
)


def simulated(limiter, rate, seconds, at_once=8, service_s=0.5):
    """Requests a second to a server that works on some `at_once`, the others wait. Returns, by second of their arrival,
    how many took at most five times as long as one that need not wait."""
    draw = random.Random(1)
    free, ends, now = [0.0] * at_once, [], 0.0
    good = [0] * seconds
    while (now := now + draw.expovariate(rate)) < seconds:
        while ends and ends[0][0] <= now:
            limiter.end(*heapq.heappop(ends), True)
        if limiter.begin(now):
            end = max(now, heapq.heappop(free)) + service_s * draw.uniform(0.8, 1.2)
            heapq.heappush(free, end)
            heapq.heappush(ends, (end, now))
            good[int(now)] += end - now <= 5 * service_s
    return good


def test_without_a_limit_an_overloaded_server_answers_nobody_in_time():
    assert sum(simulated(Limiter(), 48, 60)[30:]) == 0


@pytest.mark.parametrize("make", [lambda: Fixed(12), Gradient2, EnvoyGradient])
def test_a_limiter_keeps_an_overloaded_server_useful(make):
    good = simulated(make(), 48, 60)
    assert sum(good[30:]) > 0.5 * 16 * 30  # 16 a second is all that it can do


@pytest.mark.parametrize("make", [Gradient2, EnvoyGradient])
def test_a_limiter_lets_a_calm_server_alone(make):
    """Envoy's measures the time of an answer with three under way at first, and refuses the others meanwhile."""
    good = simulated(make(), 8, 60)
    assert sum(good[10:]) > 0.9 * 8 * 50


def test_a_fixed_limit_is_never_passed():
    limiter = Fixed(2)
    assert [limiter.begin(0.0) for _ in range(3)] == [True, True, False]
    limiter.end(1.0, 0.0, False)
    assert limiter.begin(1.0)
    assert not limiter.begin(1.0)


def test_gradient2_grows_by_a_fifth_of_its_queue_and_shrinks_with_the_gradient():
    limiter = Gradient2(samples=1, window_s=0.0)

    def one(seconds):
        for _ in range(int(limiter.limit)):
            limiter.begin(0.0)
        inside = limiter.inside
        limiter.end(seconds, 0.0, True)
        limiter.inside = 0
        return inside

    for _ in range(5):
        before = limiter.limit
        one(1.0)
        assert limiter.limit == pytest.approx(before + 0.2 * 4)  # the queue is four, smoothing a fifth
    before = limiter.limit
    one(3.0)  # the average is then 8 / 6
    gradient = max(0.5, (8 / 6) / 3.0)
    assert limiter.limit == pytest.approx(before * 0.8 + 0.2 * (before * gradient + 4))


def test_gradient2_learns_nothing_while_less_is_asked_for():
    limiter = Gradient2(samples=1, window_s=0.0)
    limiter.begin(0.0)
    limiter.end(1.0, 0.0, True)
    assert limiter.limit == 20


def test_a_long_average_begins_as_a_mean():
    average = LongAverage(window=99)
    assert [average.add(value) for value in range(10)][-1] == 4.5
    assert average.add(104.5) == pytest.approx(4.5 + 0.02 * 100)


def test_envoys_limit_follows_the_gradient():
    """minRTT is measured with three under way; then twice as much as 1.25 times that time halves the limit."""
    limiter = EnvoyGradient(jitter=0)
    for number in range(10):
        assert limiter.begin(number)
        limiter.end(number + 0.4, number, True)
    assert limiter.rtt_s == pytest.approx(0.4)
    assert limiter.limit == 3
    limiter.limit = 100
    assert limiter.begin(20.0)
    limiter.end(21.0, 20.0, True)  # 0.4 * 1.25 / 1.0
    assert limiter.limit == int(50 + math.sqrt(50))


def test_envoy_measures_again_after_an_interval_and_after_five_times_the_least():
    limiter = EnvoyGradient(jitter=0, min_rtt_samples=1)
    limiter.begin(0.0)
    limiter.end(1.0, 0.0, True)
    limiter.limit = 50
    assert limiter.begin(70.0)
    assert limiter.measuring
    assert limiter.limit == 3
    limiter.end(70.5, 70.0, True)
    assert (limiter.measuring, limiter.limit, limiter.rtt_s) == (False, 50, 0.5)
    limiter.limit = 3
    for began in range(71, 96, 5):  # much slower than minRTT: the limit stays at the least
        assert limiter.begin(began)
        assert (limiter.measuring, limiter.limit) == (False, 3)
        limiter.end(began + 5.0, began, True)
    assert limiter.begin(96.0)
    assert limiter.measuring


@pytest.mark.parametrize("best", [1, 3, 12, 24, 64])
async def test_the_search_finds_the_best_concurrency(best):
    async def measure(limit):
        return -abs(math.log(limit / best))

    found = await best_of(measure, 8)
    assert best / 1.35 <= best_key(found) <= best * 1.35
    assert min(found) >= 1
    assert max(found) <= 64


async def test_the_search_stops_where_nothing_gets_better():
    async def measure(limit):
        return min(limit, 4)

    assert sorted(await best_of(measure, 8, refined=False)) == [4, 8, 16]


@pytest.fixture
def traces(tmp_path):
    for file in traffic.TRACES.values():
        (tmp_path / file).write_text(TRACE)
    return tmp_path


def scheduled(name, traces, *, rate=20.0, seconds=20.0, seed=1, salt="a"):
    one = TRAFFICS[name]
    return traffic.schedule(one, dict.fromkeys(one.kinds, rate), seconds, seed, salt=salt, traces=traces)


@pytest.mark.parametrize("name", TRAFFICS)
def test_a_schedule_follows_the_seed_and_its_words_the_run(name, traces):
    first, again, other = (
        scheduled(name, traces, rate=1.5, seed=seed, salt=salt) for seed, salt in ((1, "a"), (1, "b"), (2, "b"))
    )
    assert [(one.at, one.amount, one.path) for one in first] == [(one.at, one.amount, one.path) for one in again]
    assert not {one.body for one in first} & {one.body for one in again}
    assert [(one.at, one.amount) for one in first] != [(one.at, one.amount) for one in other]
    assert [one.at for one in first] == sorted(one.at for one in first)
    assert first[0].at >= 0
    assert first[-1].at < 20


def test_no_two_prompts_begin_alike(traces):
    prompts = [json.loads(one.body)["messages"] for one in scheduled("mixed", traces)]
    assert all(first["role"] == "system" for first, _ in prompts)
    assert len({first["content"] + second["content"][:40] for first, second in prompts}) == len(prompts)


@pytest.mark.parametrize(("name", "prompt", "answer"), [("short", 30, 16), ("long", 400, 48)])
def test_chats_are_as_long_as_they_are_called(name, prompt, answer, traces):
    bodies = [json.loads(one.body) for one in scheduled(name, traces)]
    lengths = [sum(len(one["content"].split()) for one in body["messages"]) for body in bodies]
    assert sum(lengths) / len(lengths) + traffic.TEMPLATE_TOKENS == pytest.approx(prompt, rel=0.1)
    assert sum(body["max_tokens"] for body in bodies) / len(bodies) == pytest.approx(answer, rel=0.1)
    assert all(body["ignore_eos"] and body["stream"] and body["temperature"] == 0 for body in bodies)


def test_a_mixture_changes_in_the_middle(traces):
    one = TRAFFICS["change"]
    found = traffic.schedule(one, {"short": 20.0, "long": 2.0}, 40.0, 1, salt="", traces=traces)
    before, after = ([each.amount for each in found if (each.at < 20) == early] for early in (True, False))
    assert max(before) < 24
    assert min(after) > 24
    assert len(before) > 5 * len(after)


def test_a_burst_comes_at_once(traces):
    assert [one.at for one in scheduled("burst", traces)] == [0.0] * 64 + [10.0] * 64


def test_a_trace_is_cut_and_has_the_rate_that_is_wanted(traces):
    found = scheduled("azure-chat", traces, rate=2.0, seconds=10.0)
    assert len(found) == 20
    assert all(2 <= one.amount <= 64 for one in found)
    gaps = [later.at - one.at for one, later in itertools.pairwise(found)]
    assert gaps == pytest.approx([0.5] * 19)
    longest = max(len(one.body) for one in found)
    assert longest < 512 * 10


def test_a_trace_that_is_not_there_is_named(tmp_path):
    assert traffic.missing_trace(TRAFFICS["azure-code"], tmp_path) == tmp_path / "azure-2023-code.csv"
    assert traffic.missing_trace(TRAFFICS["mixed"], tmp_path) is None


def test_embeddings_are_of_one_to_a_thousand_texts(traces):
    amounts = sorted(one.amount for one in scheduled("embeddings", traces, rate=50))
    assert amounts[0] < 5
    assert amounts[-1] > 600
    assert amounts[len(amounts) // 2] == pytest.approx(32, rel=0.6)  # in the middle of the logarithms


def test_pictures_are_within_the_models_limits(traces):
    settings = IMAGES.settings_of(load_catalog()[traffic.PICTURES])
    bodies = [json.loads(one.body) for one in scheduled("pictures", traces)]
    assert len({(body["size"], body["steps"]) for body in bodies}) > 8
    sides = {int(side) for body in bodies for side in body["size"].split("x")}
    assert settings.smallest <= min(sides)
    assert max(sides) <= settings.largest
    assert all(side % settings.multiple == 0 for side in sides)


@pytest.mark.parametrize(
    ("promise", "outcome", "end"),
    [
        (CHAT, {"first": 1.9, "total": 5.0, "tokens": 16}, GOOD),
        (CHAT, {"first": 2.1, "total": 3.0, "tokens": 16}, LATE),
        (CHAT, {"first": 1.0, "total": 5.0, "tokens": 16}, LATE),  # 0.27 s a token
        (CHAT, {"first": 1.0, "total": 5.0, "tokens": 1}, GOOD),  # has no second token that could be late
        (WHOLE, {"total": 1.0}, GOOD),
        (WHOLE, {"total": 1.1}, LATE),
    ],
)
def test_an_answer_is_good_if_it_keeps_every_limit(promise, outcome, end):
    one = Outcome(0, 0.0, **outcome)
    one.answered(promise)
    assert one.end == end


def test_the_figures_of_a_run():
    outcomes = [
        Outcome(0, 0.0, end=GOOD, first=0.5, total=1.0, tokens=16),
        Outcome(1, 1.0, end=REFUSED, total=0.01, code="too_busy", retry_after=2.0),
        Outcome(1, 3.0, back=1, end=GOOD, first=1.0, total=1.5, tokens=16),
        Outcome(2, 1.0, end=REFUSED, total=0.03, server_s=0.06, code="too_busy", retry_after=4.0),
        Outcome(2, 5.0, back=1, end=REFUSED, total=0.02, code="at_capacity"),
        Outcome(3, 2.0, end=GIVEN_UP, total=5.0),
        Outcome(4, 2.0, end=REFUSED, local=True),
        Outcome(5, 2.0, end=FAILED, total=0.1, why="500: broken"),
        Outcome(6, 2.0, end=REFUSED, total=1.03, sent=1.01, code="beyond_promise"),
        Outcome(7, 3.9, end=GOOD, first=0.5, total=1.0, tokens=16),  # mostly when the load is over
    ]
    found = figures(outcomes, 4.0, CHAT)
    assert (found["requests"], found["good"], found["good_per_s"]) == (8, 3, pytest.approx((1 + 1 / 1.5 + 0.1) / 4))
    assert (found["refused"], found["given_up"], found["failed"]) == (3, 1, 1)
    assert found["refused_by"] == {"at_capacity": 1, "the client": 1, "beyond_promise": 1}
    assert (found["refusals"], found["refusal_p99_s"]) == (4, 0.03)
    assert (found["refusals_slow"], found["refusals_slow_server"]) == (0, 1)
    assert found["without_retry_after"] == 1  # it need not say when to come back with what it can never do
    assert found["longest_wait"] == 2.5
    assert (found["came_back"], found["let_in_share"]) == (2, 0.5)
    assert found["why"] == {"500: broken": 1}


def test_what_must_be_shown_is_judged():
    fine = {"good_per_s": 9.5, "longest_wait": 1.2, "refusals": 9, "refusal_p99_s": 0.02}
    returning = {"came_back": 10, "let_in_share": 0.8}
    assert [one.kept for one in judged(fine, {"good_per_s": 10.0}, returning)] == [True] * 4
    poor = {"good_per_s": 8.0, "longest_wait": 2.5, "refusals": 9, "refusal_p99_s": 0.3}
    assert [one.kept for one in judged(poor, {"good_per_s": 10.0}, returning | {"let_in_share": 0.5})] == [False] * 4


def test_estimates_beside_what_requests_took():
    def one(said, took, end=GOOD, admitted=True):
        return Outcome(0, 0.0, end=end, first=took / 2, total=took, estimate={
            "admitted": admitted, "duration_s": said, "time_to_first_token_s": None,
        })  # fmt: skip

    found = of_estimates(
        [one(1.0, 1.0), one(1.0, 2.0), one(1.0, 4.0), one(None, 1.0), one(9.0, 0.0, REFUSED), Outcome(9, 0.0)]
    )
    assert found["asked"] == 5
    assert found["let_in_as_said"] == 0.8
    assert found["duration_s"] == {
        "answered": 4, "unknown": 1, "median_error": 0.5, "within_two": 0.5, "median_ratio": 0.5,
    }  # fmt: skip
    assert found["time_to_first_token_s"]["unknown"] == 4


def test_estimates_are_judged_over_all_that_were_asked_for():
    said = {"median_error": 0.2, "within_two": 0.92}
    criteria = judged_estimates({"time_to_first_token_s": said, "duration_s": {"median_error": 0.3, "within_two": 0.8}})
    assert [one.kept for one in criteria] == [True, True, False, False]
    nothing = of_estimates([])
    assert [one.kept for one in judged_estimates(nothing)] == [False] * 4


class Scripted:
    """A server whose answers are named by the path."""

    def __init__(self):
        self.refused = 0
        self.app = web.Application()
        self.app.router.add_post("/{what}", self.answer)
        self.app.router.add_post("/v1/{what}", self.answer)

    async def answer(self, request):
        what = request.match_info["what"]
        body = await request.json()
        if what == "estimate":
            return web.json_response({"admitted": True})
        if what == "busy" or (what == "once" and not self.refused):
            self.refused += 1
            error = {"error": {"code": "too_busy", "message": "busy"}}
            return web.json_response(error, status=429, headers={"Retry-After": "0"})
        if what == "beyond":
            return web.json_response({"error": {"code": "beyond_promise", "message": "too large"}}, status=422)
        if what == "wrong":
            return web.json_response({"error": {"code": "invalid", "message": "wrong"}}, status=422)
        if what == "hangs":
            await asyncio.sleep(60)
        if what == "embedding":
            return web.json_response({"data": [{"object": "embedding", "embedding": "AAAA"}] * body["has"]})
        return await self.stream(request, what, body)

    async def stream(self, request, what, body):
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        texts = ["", *["word"] * body["has"]]
        for text in texts[: 2 if what == "cut" else None]:
            await answer.write(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
        if what == "breaks":
            await answer.write(b'data: {"error": {"message": "broken"}}\n\n')
        if what != "cut":
            usage = {"choices": [], "usage": {"completion_tokens": body["has"]}}
            await answer.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        return answer


@pytest.fixture
async def server():
    scripted = Scripted()
    runner = web.AppRunner(scripted.app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


def ask(what, amount=3, has=3):
    return Asked(0.0, f"/{what}", json.dumps({"has": has}).encode(), amount, what != "embedding")


# No request here is late, however slow the machine.
PATIENT = Targets(time_to_first_token_s=300, time_per_output_token_s=300, duration_s=300, good=0.99, availability=0.999)


@pytest.mark.parametrize(
    ("asked", "end", "why"),
    [
        (ask("fine"), GOOD, ""),
        (ask("fine", has=2), FAILED, "2 of 3 tokens came"),
        (ask("cut"), FAILED, "the stream has no end mark"),
        (ask("breaks"), FAILED, "the stream ended with an error"),
        (ask("embedding"), GOOD, ""),
        (ask("embedding", has=1), FAILED, "1 of 3 came"),
        (ask("busy"), REFUSED, ""),
        (ask("beyond"), REFUSED, ""),
        (ask("wrong"), FAILED, '422: {"error": {"code": "invalid", "message": "wrong"}}'),
    ],
)
async def test_what_became_of_a_request(asked, end, why, server):
    async with connected(server.url, PATIENT, 1.0) as client:
        (one,) = await open_loop(client, [asked], Limiter())
    assert (one.end, one.why) == (end, why)
    assert (one.first is not None) == (asked.stream and end != REFUSED and one.status == 200)
    assert one.retry_after == (0.0 if asked.path == "/busy" else None)


async def test_a_client_leaves_after_its_patience(server):
    hasty = Targets(duration_s=0.2, good=0.99, availability=0.999)
    async with connected(server.url, hasty, 2.0) as client:
        (one,) = await open_loop(client, [ask("hangs")], Limiter())
    assert one.end == GIVEN_UP
    assert one.wait(hasty) >= 2.0


async def test_what_is_over_the_limit_is_not_sent(server):
    async with connected(server.url, PATIENT, 1.0) as client:
        found = await open_loop(client, [ask("busy")] * 5, Fixed(0))
    assert [(one.end, one.local) for one in found] == [(REFUSED, True)] * 5
    assert server.refused == 0


async def test_a_client_comes_back_when_it_is_told(server):
    async with connected(server.url, PATIENT, 1.0) as client:
        found = await open_loop(client, [ask("once")], Limiter(), until_s=600)
        assert [(one.back, one.end) for one in found] == [(0, REFUSED), (1, GOOD)]
        server.refused = 0
        found = await open_loop(client, [ask("once")], Limiter())
        assert [one.end for one in found] == [REFUSED]


async def test_a_bare_server_is_asked_beside_the_load(server):
    async with connected(server.url, PATIENT, 1.0) as client:
        async with beside_a_bare_server(client, f"{server.url}/busy") as took:
            await asyncio.sleep(2.5 * BARE_EVERY_S)
        assert len(took) >= 2
        assert min(took) > 0
        with pytest.raises(aiohttp.ClientError):
            async with beside_a_bare_server(client, "http://127.0.0.1:1"):
                await asyncio.sleep(0.1)


async def test_an_estimate_is_asked_for_before_the_request(server):
    async with connected(server.url, PATIENT, 1.0) as client:
        found = await open_loop(client, [ask("fine"), ask("fine")], Limiter(), estimated=[1])
    assert [one.estimate for one in found] == [None, {"admitted": True}]


async def test_a_closed_loop_counts_what_is_answered(server):
    async with connected(server.url, PATIENT, 1.0) as client:
        good, answered = await closed_loop(client, lambda: ask("embedding"), 2, 0.3)
        assert 0 < good == answered
        assert await closed_loop(client, lambda: ask("busy"), 2, 0.3) == (0, 0)


def test_the_starter_config_has_what_is_asked_and_one_replica_of_it():
    document = starter_config({traffic.EMBEDDINGS}, whole=False, routers=2)
    names = [one["name"] for one in document["applications"]]
    assert names == [traffic.EMBEDDINGS, "router"]
    assert document["applications"][0]["deployments"][0]["autoscaling_config"]["max_replicas"] == 1
    assert document["applications"][1]["deployments"][0]["num_replicas"] == 2
    assert len(starter_config({traffic.EMBEDDINGS}, whole=True, routers=1)["applications"]) > 2


def test_the_command_line():
    assert goodput.options([]).sides == ["medley", "fixed", "gradient2", "envoy"]
    assert goodput.options(["--returns", "--url", "http://there"]).sides == ["medley", "returns"]
    assert goodput.options(["--capacity", "short=5.5"]).capacity == [("short", 5.5)]
    with pytest.raises(SystemExit):
        goodput.options(["--url", "http://there", "--curve"])
    with pytest.raises(SystemExit):
        goodput.options(["--url", "http://there", "--sides", "fixed"])


def test_a_run_is_kept_beside_those_before(tmp_path):
    given = goodput.options(["--results", str(tmp_path / "results.json"), "--seed", "7"])
    goodput.keep(given, {"good": 1})
    goodput.keep(given, {"good": 2})
    runs = json.loads(given.results.read_text())["runs"]
    assert [(one["good"], one["seed"]) for one in runs] == [(1, 7), (2, 7)]


@pytest.mark.parametrize(
    ("figures", "least"), [([4, 7, 9, 11, 12], 1), ([4, 8, 6, 10], 0.75), ([10, 5, 20, 2], 0.1), ([3], 1)]
)
def test_goodput_may_grow_with_the_rate_and_not_fall(figures, least):
    assert goodput.least_kept(figures) == least


def test_the_curve_is_a_plot():
    points = {times: {"good_per_s": 5.0} for times in goodput.CURVE}
    plot = goodput.plot("mixed", {"medley": points, "off": points})
    assert plot.startswith("<svg")
    assert "with admission" in plot


def may_be_preferred():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, CLIENT)
    except OSError:
        return False
    os.setpriority(os.PRIO_PROCESS, 0, before)
    return True


def test_the_client_is_preferred_while_it_measures_also_to_other_sessions(tmp_path, monkeypatch):
    of_session = tmp_path / "autogroup"  # root may be forbidden to write Linux's own: in a container without the right
    of_session.write_text("/autogroup-25 nice 0\n")
    monkeypatch.setattr(clusters, "AUTOGROUP", of_session)
    before, allowed = os.getpriority(os.PRIO_PROCESS, 0), may_be_preferred()
    with preferred():
        assert os.getpriority(os.PRIO_PROCESS, 0) == CLIENT or not allowed
        assert session_niceness() == CLIENT
    assert (os.getpriority(os.PRIO_PROCESS, 0), session_niceness()) == (before, 0)


def test_the_session_is_again_as_nice_as_it_was_where_it_was_preferred():
    before = session_niceness()
    with preferred():
        pass
    assert session_niceness() == before


def test_a_client_that_measures_does_not_pause_for_garbage_of_before():
    before = gc.get_freeze_count()
    with preferred():
        assert gc.get_freeze_count() > before + 1000
        assert len(gc.get_objects()) < 1000
    assert gc.get_freeze_count() == 0


class ChangedLately(type(clusters.AUTOGROUP)):
    """Linux refuses a change within 0.1 s of the last one on the machine, unless root asks that may do everything."""

    refusals = iter(range(3))

    def write_text(self, *args, **kwargs):
        if next(self.refusals, None) is not None:
            raise BlockingIOError
        return super().write_text(*args, **kwargs)


def test_how_nice_a_session_is_changes_a_little_later_where_it_has_just_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "AUTOGROUP", ChangedLately(tmp_path / "autogroup"))
    clusters.prefer(os.getpriority(os.PRIO_PROCESS, 0), -15)
    assert not clusters.AUTOGROUP.exists(), "written where Linux does not share between sessions"
    clusters.AUTOGROUP.touch()
    clusters.prefer(os.getpriority(os.PRIO_PROCESS, 0), -15)
    assert session_niceness() == -15


@pytest.mark.parametrize(
    ("text", "niceness"), [("/autogroup-25 nice 7\n", 7), ("/autogroup-2 nice -15\n", -15), ("", 0)]
)
def test_how_nice_a_session_is_where_sessions_share_and_where_they_do_not(tmp_path, monkeypatch, text, niceness):
    monkeypatch.setattr(clusters, "AUTOGROUP", tmp_path / "autogroup")
    assert session_niceness() == 0
    clusters.AUTOGROUP.write_text(text)
    assert session_niceness() == niceness
