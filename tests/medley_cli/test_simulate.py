"""The simulator: queues behave as theory says, delays as Ray's own code does, and the promise is kept for less."""

import json
import math
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.autoscaling import PromisePolicy
from loadtest.arrivals import Stage, of_stages
from medley.main import app
from medley.simulation.cluster import Settings, _Simulation, simulate

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


def fixed(replicas):
    return lambda context: (replicas, {})


def poisson(rate, seconds, seed=1):
    return [one.at for one in of_stages([Stage(rate, seconds)], seed)]


def exponential(count, mean, seed=2):
    draw = random.Random(seed)
    return [draw.expovariate(1 / mean) for _ in range(count)]


def erlang_c(load, servers):
    """The share of requests that wait at all: Erlang, 1917."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("slots", "replicas", "load"), [(1, 1, 0.5), (4, 1, 3.0), (2, 4, 6.0)])
def test_waits_are_those_of_queueing_theory(slots, replicas, load):
    arrivals = poisson(load / 0.5, 8000)
    services = exponential(len(arrivals), 0.5)
    run = simulate(arrivals, services, fixed(replicas), Settings(slots, min_replicas=replicas, max_replicas=replicas))
    servers = slots * replicas
    expected = erlang_c(load, servers) * 0.5 / (servers - load)
    assert sum(run.waits) / len(run.waits) == pytest.approx(expected, rel=0.15)
    assert sum(wait > 1e-9 for wait in run.waits) / len(run.waits) == pytest.approx(erlang_c(load, servers), rel=0.1)
    assert len(run.waits) == len(arrivals)


def test_delays_are_those_of_rays_own_code():
    from ray.serve.autoscaling_policy import _apply_delay_logic
    from ray.serve.config import AutoscalingConfig

    draw = random.Random(3)
    config = AutoscalingConfig(min_replicas=0, max_replicas=9, upscale_delay_s=3, downscale_delay_s=6)
    settings = Settings(1, min_replicas=0, max_replicas=9, upscale_delay_s=3, downscale_delay_s=6)
    ours, theirs, state = _Simulation([], [], fixed(0), settings), 0, {}
    wanted = 0
    for now in range(2000):
        if draw.random() < 0.2:
            wanted = draw.randrange(10)
        ours.move_target(wanted)
        theirs, state = _apply_delay_logic(wanted, theirs, config, state, _now=float(now))
        assert ours.target == theirs, now


def test_a_replica_takes_its_time_to_start_and_finishes_what_it_has():
    settings = Settings(1, start_s=10, max_replicas=3, upscale_delay_s=0, downscale_delay_s=0, look_back_s=1)
    wanted = iter([3] * 20 + [1] * 200)
    run = simulate([0.5, 0.6, 0.7], [30.0, 30.0, 30.0], lambda context: (next(wanted), {}), settings)
    assert run.waits[0] == 0
    assert run.waits[1] == pytest.approx(10.5, abs=0.2)
    assert run.waits[2] == pytest.approx(10.4, abs=0.2)
    # The first begins at 0 and ends at 30.5, or later if it is the one that stays; the others from 1 to 41.
    assert run.replica_seconds == pytest.approx(41 + 40 + 40, abs=12)


def test_nothing_is_lost_and_a_full_queue_refuses():
    arrivals = poisson(50, 20)
    run = simulate(arrivals, [1.0] * len(arrivals), fixed(1), Settings(2, max_replicas=1, most_queued=10))
    assert run.refused > 0
    assert len(run.waits) + run.refused == len(arrivals)
    assert max(run.waits) <= 6.1


def test_a_spike_is_met_within_the_promise_with_fewer_replica_seconds_than_a_request_count_needs():
    stages = [Stage(2, 300), Stage(10, 300), Stage(2, 300)]
    arrivals = [one.at for one in of_stages(stages, 5)]
    services = exponential(len(arrivals), 2.0)
    settings = Settings(4, start_s=15, max_replicas=40, upscale_delay_s=2, downscale_delay_s=60)
    promise = simulate(arrivals, services, PromisePolicy(wait_s=1, concurrency=4, service_s=2), settings)
    assert promise.goodput(20) > 0.99  # a queue grows while replicas start
    later = [wait for at, wait in zip(arrivals, promise.waits, strict=True) if 360 < at < 600]
    assert sum(wait <= 1 for wait in later) / len(later) > 0.95
    assert max(each[1] for each in promise.replicas) <= 20


def test_a_thousand_replicas_take_seconds():
    arrivals = poisson(500, 60)
    settings = Settings(2, start_s=5, min_replicas=100, max_replicas=3000, upscale_delay_s=0)
    run = simulate(arrivals, exponential(len(arrivals), 4.0), PromisePolicy(1, 2, 4), settings)
    assert max(each[1] for each in run.replicas) > 1000
    assert len(run.waits) == len(arrivals)


def test_the_command_compares_with_rays_own_policy(tmp_path):
    page, trace = tmp_path / "page.html", tmp_path / "trace.csv"
    rows = [
        f"2023-11-16 18:{second // 60:02d}:{second % 60:02d}.0000000,100,{second % 50 + 1}" for second in range(300)
    ]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    words = ["simulate", "smollm2-135m-instruct", "--config", str(CONFIG), "--trace", str(trace), "--copies", "20"]
    done = CliRunner().invoke(app, [*words, "--most", "30", "--page", str(page), "--json"])
    assert done.exit_code == 0, done.output
    ours, theirs = json.loads(done.stdout)
    assert ours["requests"] == theirs["requests"] == 6000
    assert theirs["policy"] == "Ray's default"
    assert page.read_text().count("<svg") == 3


def test_the_queue_is_as_long_as_the_routers_let_it_be():
    """One replica with 32 places, 64 that may wait for a second each, and 200 that come each second."""
    words = ["simulate", "smollm2-135m-instruct", "--config", str(CONFIG), "--stages", "200x10", "--json"]
    done = CliRunner().invoke(app, [*words, "--first-s", "1", "--token-s", "0"])
    (ours, _) = json.loads(done.stdout)
    assert ours["refused"] > ours["requests"] / 2
    assert ours["wait_p99_s"] < 64 / 32 + 0.2


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
