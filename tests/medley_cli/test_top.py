"""`medley top`: rates and quantiles of two scrapes, and what is shown where nothing is known."""

import math

import httpx
import pytest
import typer
from recorded_cluster import CHAT, EMBEDDINGS, RecordedCluster
from rich.console import Console
from typer.testing import CliRunner

from deployments.telemetry import DURATION, ERRORS, IN_FLIGHT, QUEUE_WAIT, REQUESTS, Metric
from medley.local import cluster
from medley.look import top
from medley.look.exposition import Difference, Scrape, parse, quantile, scrape, targets
from medley.look.top import Frame, History, drawn, figures

LABELS = 'Component="core_worker",NodeAddress="192.0.2.2",Version="2.60.0"'


def series(metric: Metric, value: float, suffix: str = "", worker: str = "w1", **labels: str) -> str:
    """A line as Ray exposes it."""
    own = "".join(f',{name}="{text}"' for name, text in labels.items())
    return f'{metric.series}{suffix}{{{LABELS},WorkerId="{worker}"{own}}} {float(value)}\n'


def histogram(metric: Metric, cumulative: dict[str, float], **labels: str) -> str:
    lines = [f"# TYPE {metric.series} histogram\n"]
    return "".join(lines + [series(metric, count, "_bucket", le=le, **labels) for le, count in cumulative.items()])


def counted(requests: float, worker: str = "w1", status: str = "200", model: str = CHAT) -> str:
    return series(REQUESTS, requests, worker=worker, model=model, task="chat", status=status)


def between(before: str, after: str, seconds: float = 10) -> Difference:
    return Difference(Scrape(100, {"one": parse(before)}), Scrape(100 + seconds, {"one": parse(after)}))


# 20 up to 0.1 s, 30 more up to 0.25 s, 40 more up to 0.5 s, 10 more up to 1 s.
BUCKETS = {0.1: 20, 0.25: 50, 0.5: 90, 1.0: 100, math.inf: 100}


@pytest.mark.parametrize(
    ("q", "by_hand"),
    [
        (0.1, 0.05),  # half of the first bucket, which begins at 0
        (0.5, 0.25),
        (0.6, 0.25 + 0.25 * 10 / 40),
        (0.95, 0.5 + 0.5 * 5 / 10),
        (1.0, 1.0),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(q, by_hand):
    assert quantile(q, BUCKETS) == pytest.approx(by_hand)


def test_a_quantile_above_the_last_bound_is_that_bound():
    assert quantile(0.95, BUCKETS | {math.inf: 120}) == 1.0


@pytest.mark.parametrize("buckets", [{}, {math.inf: 5}, dict.fromkeys(BUCKETS, 0), {0.1: 3, 0.5: 4}])
def test_no_quantile_of_nothing(buckets):
    assert quantile(0.95, buckets) is None


def test_a_quantile_is_of_what_happened_between_the_scrapes():
    slow = {"0.1": 0, "0.25": 0, "0.5": 0, "1.0": 7, "+Inf": 7}
    added = {le: slow[le] + BUCKETS[float(le)] for le in slow}
    difference = between(
        histogram(DURATION, slow, model=CHAT, task="chat"), histogram(DURATION, added, model=CHAT, task="chat")
    )
    assert difference.quantile(0.5, DURATION, model=CHAT) == pytest.approx(0.25)
    assert difference.quantile(0.5, DURATION, model=EMBEDDINGS) is None
    two_routers = between("", "".join(histogram(DURATION, added, model=CHAT, worker=one) for one in ("w1", "w2")))
    assert two_routers.quantile(0.5, DURATION, model=CHAT) is not None


def test_rates_are_increases_per_second_over_all_processes():
    difference = between(counted(10) + counted(100, "w2"), counted(30) + counted(110, "w2"))
    assert difference.rate(REQUESTS, model=CHAT) == 3
    assert difference.rate(REQUESTS, model=CHAT, status="429") is None
    assert difference.rate(REQUESTS, model=EMBEDDINGS) is None


def test_a_counter_that_is_begun_anew_never_gives_a_negative_rate():
    same_process = between(counted(1000), counted(20))
    assert same_process.rate(REQUESTS, model=CHAT) == 2  # 20 since it began again
    replaced = between(counted(1000, "old"), counted(20, "new"))
    assert replaced.rate(REQUESTS, model=CHAT) == 2
    gone = between(counted(1000, "old") + counted(5, "stays"), counted(5, "stays"))
    assert gone.rate(REQUESTS, model=CHAT) == 0


def test_a_target_that_was_silent_the_first_time_is_no_burst():
    silent = Difference(Scrape(100, {}), Scrape(110, {"one": parse(counted(5000))}))
    assert silent.rate(REQUESTS, model=CHAT) is None


def test_figures_of_a_model():
    before = counted(0) + series(ERRORS, 0, model=CHAT, task="chat", code="engine_failed")
    after = (
        counted(50)
        + counted(20, status="429")
        + series(ERRORS, 5, model=CHAT, task="chat", code="queue_full")
        + series(ERRORS, 15, model=CHAT, task="chat", code="at_capacity")
        + series(ERRORS, 5, model=CHAT, task="chat", code="engine_failed")
        + series(IN_FLIGHT, 3, model=CHAT)
        + histogram(QUEUE_WAIT, {"0.1": 10, "0.5": 10, "+Inf": 10}, model=CHAT, task="chat")
    )
    did = figures(between(before, after), CHAT)
    assert (did.requests, did.refused, did.errors, did.in_flight) == (7, 2, 0.5, 3)
    assert did.wait_p95 == pytest.approx(0.095)
    assert (did.first_p50, did.written) == (None, None)


def test_what_is_not_known_is_not_zero():
    nothing = figures(between("", ""), CHAT)
    assert {getattr(nothing, name) for name in nothing.__slots__} == {None}
    quiet = figures(between(counted(5), counted(5)), CHAT)
    assert (quiet.requests, quiet.errors, quiet.refused) == (0, 0, 0)
    assert quiet.whole_p95 is None


def test_only_medleys_series_are_read():
    text = f"# HELP x y\n# TYPE ray_tasks gauge\nray_tasks{{{LABELS}}} 3.0\n# TYPE {REQUESTS.series} counter\n"
    assert [name for name, _ in parse(text + counted(4))] == [REQUESTS.series]


def test_a_target_that_does_not_answer_is_a_gap():
    recorded = RecordedCluster()
    recorded.metrics = {"192.0.2.2:1": counted(4)}
    with recorded.client() as client:
        found = scrape(client, ["192.0.2.2:1", "192.0.2.2:2"])
    assert found.gaps == ("192.0.2.2:2",)
    assert found.workers() == {"w1"}
    assert [value for _, value in found.samples(REQUESTS.series, model=CHAT)] == [4]


def test_targets_are_those_that_ray_names(tmp_path):
    file = tmp_path / "prom.json"
    files = (tmp_path / "of a pod.json", file)
    assert targets(files) == []
    file.write_text('[{"labels": {"job": "ray"}, "targets": ["192.0.2.2:35515", "192.0.2.2:44217"]}]')
    assert targets(files) == ["192.0.2.2:35515", "192.0.2.2:44217"]


def at(seconds: float, requests: float, **written: int) -> Scrape:
    return Scrape(seconds, {"one": parse(counted(requests))}, written)


def test_the_age_is_that_of_the_last_report_of_the_process_that_is_furthest_behind():
    history = History(window_s=20)
    history.add(at(100, 5, w1=1, other=1))
    history.add(at(102, 5, w1=1, other=2))
    assert history.age_s() is None  # w1, whose figures these are, has not been seen to report
    history.add(at(104, 9, w1=2, other=2))
    history.add(at(107, 9, w1=2, other=3))
    assert history.age_s() == 3


def test_no_rate_before_every_process_may_have_reported():
    history = History(window_s=20)
    history.add(at(100, 5, w1=1))
    history.add(at(102, 5, w1=1))
    assert history.difference().rate(REQUESTS, model=CHAT) is None
    history.add(at(110, 25, w1=2))
    assert history.difference().rate(REQUESTS, model=CHAT) == 2
    quiet = History(window_s=20)
    quiet.add(at(100, 5, w1=1))
    quiet.add(at(116, 5, w1=1))
    assert quiet.difference().rate(REQUESTS, model=CHAT) == 0


def test_the_window_moves():
    history = History(window_s=10)
    for second in range(0, 40, 2):
        history.add(at(second, 100 if second >= 20 else 0, w1=second))
    assert history.difference().seconds == 10
    assert history.difference().rate(REQUESTS, model=CHAT) == 0  # the burst was before the window


def output(frame: Frame, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(drawn(frame, width))
    return capture.get()


def test_a_frame():
    recorded = RecordedCluster()
    recorded.loads("load", since=0, app=EMBEDDINGS, fraction=0.25)
    frame = Frame(recorded.live(), between(counted(0), counted(15)), {CHAT: 3.06, EMBEDDINGS: 0.2}, age_s=3)
    lines = output(frame).splitlines()
    chat, embeddings, total = (next(one for one in lines if one.startswith(name)) for name in (CHAT, EMBEDDINGS, "tot"))
    assert chat.split() == [CHAT, "ready", "1.5", "-", "-", "-", "-", "-", "0", "0", "1", "3.1", "GiB"]
    assert embeddings.split()[1:6] == ["load", "25", "%", "-", "-"]
    assert embeddings.split()[-3:] == ["0/1", "0.2", "GiB"]
    assert total.split()[1:3] == ["1.5", "-"]
    assert total.split()[-2:] == ["3.3", "GiB"]
    narrow = output(frame, 80)
    assert "…" not in narrow  # nothing is cut
    assert narrow.count(CHAT) == 2
    assert "over the last 10 s" in lines[-1]
    assert "reported 3.0 s ago" in lines[-1]


def test_frames_without_figures_say_why():
    recorded = RecordedCluster()
    assert "no metrics endpoint answers" in output(Frame(recorded.live(), Difference(Scrape(1), Scrape(2))))
    assert "no process reports" in output(Frame(recorded.live(), between("", "")))
    recorded.down = {"serve", "router", "ray", "nodes"}
    assert "`medley up` starts one" in output(Frame(recorded.live(), between("", "")))


@pytest.fixture
def once(monkeypatch):
    recorded = RecordedCluster()
    recorded.metrics = {"192.0.2.2:1": counted(10)}
    monkeypatch.setattr(top, "dashboard", recorded.client)
    monkeypatch.setattr(httpx, "Client", recorded.client)
    monkeypatch.setattr(cluster, "processes", list)
    monkeypatch.setattr(top, "targets", lambda: list(recorded.metrics))
    app = typer.Typer()
    app.command()(top.top)
    return recorded, lambda: CliRunner().invoke(app, ["--once", "--window", "20"])


def test_one_frame_for_scripts(once, monkeypatch):
    recorded, run = once
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        recorded.metrics = {"192.0.2.2:1": counted(500)}

    monkeypatch.setattr(top.time, "sleep", sleep)
    done = run()
    assert done.exit_code == 0
    assert slept == [20]
    assert done.output.count("in flight") == 1
    row = next(line for line in done.output.splitlines() if line.startswith(CHAT)).split()
    assert row[1] == "ready"
    assert float(row[2]) > 0
    recorded.down = {"serve", "router", "ray", "nodes"}
    assert run().exit_code == 2
