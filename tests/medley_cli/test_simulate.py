"""The simulator: queues behave as theory says, delays as Ray's own code does, and the promise is kept for less."""

import json
import math
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.autoscaling import PromisePolicy
from deployments.servers.calls import Terms
from deployments.servers.pace import Work
from loadtest.arrivals import Stage, of_stages
from medley.main import app
from medley.simulation.cluster import Settings, _Simulation, simulate
from medley.simulation.command import RAYS_OWN
from medley.simulation.replica import Machine
from models.registry import import_string

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


def fixed(replicas):
    return lambda context: (replicas, {})


def poisson(rate, seconds, seed=1):
    return [one.at for one in of_stages([Stage(rate, seconds)], seed)]


def erlang_c(load, servers):
    """The share of requests that wait at all: Erlang, 1917."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


def chats(count, tokens, seed=2):
    """Requests whose answers have so many tokens on average."""
    draw = random.Random(seed)
    return [Work(1.0, max(1.0, round(draw.expovariate(1 / tokens)))) for _ in range(count)]


def machine(token_s, **others):
    """One that needs no time to read."""
    return Machine(token_s, 0.0, 1e-9, noise=0.0, chunk=10**6, budget=10**7, **others)


@pytest.mark.parametrize(("slots", "replicas", "load"), [(1, 1, 0.5), (4, 1, 3.0), (2, 1, 1.5)])
def test_waits_are_those_of_queueing_theory(slots, replicas, load):
    """Without a promise nothing is refused, and one that has no place waits for one."""
    rate = load / 0.5
    moments = poisson(rate, min(4000, 16_000 / rate))
    settings = Settings(machine(0.01, sequences=slots), at_once=slots, max_replicas=1)
    run = simulate(moments, chats(len(moments), 50), fixed(replicas), settings)
    expected = erlang_c(load, slots) * 0.5 / (slots - load)
    # Until the first token, which itself takes one step and what is left of the one before.
    assert sum(run.waits) / len(run.waits) - 0.015 == pytest.approx(expected, rel=0.2)
    assert len(run.waits) == len(moments)
    assert run.refused == 0


def test_delays_are_those_of_rays_own_code():
    from ray.serve.autoscaling_policy import _apply_delay_logic
    from ray.serve.config import AutoscalingConfig

    draw = random.Random(3)
    config = AutoscalingConfig(min_replicas=0, max_replicas=9, upscale_delay_s=3, downscale_delay_s=6)
    settings = Settings(min_replicas=0, max_replicas=9, upscale_delay_s=3, downscale_delay_s=6)
    ours, theirs, state = _Simulation([], [], fixed(0), settings), 0, {}
    wanted = 0
    for now in range(2000):
        if draw.random() < 0.2:
            wanted = draw.randrange(10)
        ours.move_target(wanted)
        theirs, state = _apply_delay_logic(wanted, theirs, config, state, _now=float(now))
        assert ours.target == theirs, now


def test_a_replica_takes_its_time_to_start_and_finishes_what_it_has():
    settings = Settings(
        Machine(1e-6, 0.1, 1e-6, noise=0.0), 1, Terms(whole_s=45.0), start_s=10, max_replicas=2, upscale_delay_s=0,
        downscale_delay_s=0, look_back_s=1,
    )  # fmt: skip
    wanted = iter([2] * 20 + [1] * 200)
    run = simulate([1.5, 1.6], [Work(1.0, 300.0)] * 2, lambda context: (next(wanted), {}), settings)
    assert run.waits[0] < 0.02
    # Two at once on one would both be late. The second waits for the replica that starts, and is in time then.
    assert run.waits[1] == pytest.approx(11 - 1.6, abs=0.2)
    assert (run.good, run.refused) == (2, 0)
    # The first is there from 0 to 31.5, the other one from 1 to 41; either may be the one that stays until all is over.
    assert run.replica_seconds == pytest.approx(31.5 + 40, abs=12)


def test_replicas_refuse_what_they_cannot_answer_in_time_and_each_request_is_accounted_for():
    moments = poisson(50, 20)
    settings = Settings(Machine(0.02, 0.02, 1e-6, noise=0.0), 8, Terms(whole_s=3.0), max_replicas=1, come_back=0.0)
    run = simulate(moments, [Work(1.0, 20.0)] * len(moments), fixed(1), settings)
    assert run.refused == run.refusals > 0
    assert len(run.waits) + run.refused == len(moments)
    assert run.good > 0.95 * len(run.waits)
    # 20 tokens at 0.02 s, and more for each beside it: one replica writes 50 tokens a second.
    assert run.good > 0.8 * 20 * 50 / 20


def test_who_comes_back_is_asked_for_once_and_mostly_let_in():
    moments = poisson(6, 60)
    settings = Settings(Machine(0.02, 0.01, 1e-6, noise=0.0), 8, Terms(whole_s=6.0), max_replicas=1, come_back=1.0)
    run = simulate(moments, [Work(1.0, 20.0)] * len(moments), fixed(1), settings)
    assert len(run.waits) > 0.9 * len(moments)
    assert run.refusals < 2 * len(moments)


def test_a_step_in_the_load_is_met_with_fewer_replica_seconds_than_rays_own_needs():
    moments = [one.at for one in of_stages([Stage(2, 100), Stage(10, 200), Stage(2, 100)], 5)]
    works = [Work(200.0, 60.0)] * len(moments)
    settings = Settings(
        Machine(0.025, 0.006, 0.0002, noise=0.0, chunk=512, budget=1024), 4, Terms(first_s=4.0, whole_s=12.0),
        start_s=15, max_replicas=40, upscale_delay_s=1, downscale_delay_s=60, target_ongoing_requests=2,
    )  # fmt: skip
    promise = simulate(moments, works, PromisePolicy(wait_s=1, concurrency=4, service_s=2), settings)
    rays = simulate(moments, works, import_string(RAYS_OWN), settings)
    assert promise.good > 0.85 * len(moments)  # some come while replicas start
    assert promise.good >= 0.97 * rays.good
    assert promise.replica_seconds < rays.replica_seconds
    assert max(each[1] for each in promise.replicas) <= 20


def test_a_hundred_replicas_take_seconds():
    moments = poisson(80, 30)
    settings = Settings(
        Machine(0.03, 0.01, 1e-4, noise=0.0), 4, Terms(first_s=5.0, whole_s=30.0), start_s=5, min_replicas=60,
        max_replicas=300, upscale_delay_s=0,
    )  # fmt: skip
    run = simulate(moments, chats(len(moments), 60), PromisePolicy(1, 4, 2), settings)
    assert max(each[1] for each in run.replicas) >= 60
    assert len(run.waits) + run.refused == len(moments)


def test_the_command_compares_with_rays_own_policy(tmp_path):
    page, trace = tmp_path / "page.html", tmp_path / "trace.csv"
    rows = [
        f"2023-11-16 18:{second // 60:02d}:{second % 60:02d}.0000000,100,{second % 50 + 1}" for second in range(300)
    ]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    words = ["simulate", "smollm2-135m-instruct", "--config", str(CONFIG), "--trace", str(trace), "--copies", "4"]
    done = CliRunner().invoke(app, [*words, "--most", "8", "--page", str(page), "--json"])
    assert done.exit_code == 0, done.output
    ours, theirs = json.loads(done.stdout)
    assert ours["requests"] == theirs["requests"] == 1200
    assert theirs["policy"] == "Ray's default"
    assert page.read_text().count("<svg") == 3


def test_what_the_machine_cannot_do_alone_is_said():
    words = ["simulate", "all-minilm-l6-v2", "--config", str(CONFIG), "--stages", "2x10", "--wait-s", "0.1"]
    done = CliRunner().invoke(app, [*words, "--first-s", "1"])
    assert done.exit_code == 0, done.output
    assert "cannot be answered as promised even alone" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "has no application"),
        (["router"], "has no autoscaling_config"),
        (["smollm2-135m-instruct", "--stages", "many"], "RATExSECONDS"),
        (["smollm2-135m-instruct", "--trace", "/nowhere.csv"], "nowhere"),
    ],
)
def test_wrong_use_is_said_in_words(words, said):
    done = CliRunner().invoke(app, ["simulate", "--config", str(CONFIG), *words])
    assert done.exit_code == 2
    assert said in done.output
