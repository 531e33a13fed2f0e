"""`medley loadtest`: its commands from words to exit code, with Locust in virtual time in place of its processes."""

import json
from types import SimpleNamespace

import pytest
import yaml
from runs import SLO
from typer.testing import CliRunner

from loadtest import commands, scenario
from loadtest.targets import promises


@pytest.fixture
def medley(world, monkeypatch, tmp_path):
    """Run a command. Its exit code and output."""
    monkeypatch.setattr(commands, "subprocess", SimpleNamespace(run=world.instead_of_processes))
    (tmp_path / "slo.yaml").write_text(SLO)

    def run(*words):
        result = CliRunner().invoke(commands.app, [*map(str, words)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_smoke_test_of_make_passes_on_a_server_that_does_all_tasks(world, medley, tmp_path):
    server = world.server(first_s=2, token_s=0.3, work_s=4)
    words = ("smoke", "--promises", "cpu-ci", "--rate", 2, "--seconds", 40, "--host", server)
    code, output = medley("run", *words, "--report", tmp_path / "report")
    assert code in (0, 3), output
    report = report_of(tmp_path / "report")
    assert {one["task"] for one in report["models"]} == {"chat", "embeddings", "images", "upscaling", "styles"}
    assert all(one["share_good"] == 1 for one in report["models"])
    assert set(report["cold_start_s"]) == {one["model"] for one in report["models"]}


def test_the_smoke_test_of_make_fails_on_a_server_that_answers_wrongly_once(world, medley, tmp_path):
    words = ("smoke", "--promises", "cpu-ci", "--rate", 2, "--seconds", 20, "--host", world.server(wrong=30))
    assert medley("run", *words, "--report", tmp_path / "report")[0] == 1


def test_words_of_the_command_line_arrive(world, medley, tmp_path):
    server, report = world.server(), tmp_path / "report"
    words = ("--rate", 12, "--seconds", 8, "--seed", 7, "--slo", tmp_path / "slo.yaml", "--report", report)
    code, output = medley("run", "ab", *words, "--host", f"{server}/")
    assert code == 0, output
    found = report_of(report)
    assert (found["seed"], found["address"], found["promises"]) == (7, server, "cpu")
    assert found["attempts"] == pytest.approx(96, abs=40)
    assert found["seconds"] <= 8


def test_what_left_no_report_is_no_verdict(world, medley, tmp_path):
    """Locust ends with 1 for faults of its own, and the folder may hold what an earlier run left."""
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text('{"outcome": "passed"}')
    world.locust = lambda *words: (1, "")
    assert medley("run", "--report", report)[0] == 5
    assert not (report / "report.json").exists()


def test_without_its_libraries_it_says_what_to_install(medley, monkeypatch):
    monkeypatch.setattr(commands, "find_spec", lambda name: None if name == "scipy" else name)
    code, output = medley("run")
    assert code == 2
    assert "scipy: pip install 'medley[loadtest]'" in output


def test_a_slower_build_is_exit_code_1(world, medley, tmp_path):
    words = ("--rate", 10, "--seconds", 30, "--slo", tmp_path / "slo.yaml", "--report", tmp_path / "report")
    a, same, slower = world.server(work_s=0.1), world.server(work_s=0.1), world.server(work_s=0.13)
    assert medley("ab", same, "--host", a, *words)[0] == 0
    assert medley("ab", slower, "--host", a, *words)[0] == 1
    assert report_of(tmp_path / "report")["outcome"] == "passed"  # each keeps the promise
    assert medley("ab", "http://nobody.test", "--host", "http://nobody.test", *words)[0] == 4


def test_the_highest_rate_is_found_where_the_server_s_limit_is(world, medley, tmp_path):
    """One slot, and 0.1 s for each: ten a second are the most, and somewhat less is kept within the limit."""
    scenario = tmp_path / "tried.yaml"
    parts = [{"task": "embeddings", "good": 0.9}]
    rows = {"proves": "A rate.", "stages": [{"rate": 1, "seconds": 12}], "parts": parts, "drain_s": 30, "warm_up": 0}
    scenario.write_text(json.dumps(rows))
    words = ("--slo", tmp_path / "slo.yaml", "--report", tmp_path / "search", "--low", 3)
    code, output = medley("search", scenario, "--host", world.server(work_s=0.1, slots=1), *words)
    assert code == 0, output
    assert "requests a second the promises cease to be kept" in output
    found = json.loads((tmp_path / "search" / "search.json").read_text())
    assert 6 < found["low"] < found["high"] < 12
    assert found["high"] <= found["low"] * 1.35
    assert (tmp_path / "search" / "search.html").exists()
    assert (tmp_path / "search" / "probe-01" / "report.json").exists()
    # A server that is too slow at any rate, and one that is not there.
    assert medley("search", scenario, "--host", world.server(work_s=1.5), *words)[0] == 1
    assert medley("search", scenario, "--host", "http://nobody.test", *words)[0] == 4


def test_a_trace_is_replayed(world, medley, tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,100,20" for second in range(10, 40)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    words = ("--speed", 2, "--skip", 5, "--most", 20, "--slo", tmp_path / "slo.yaml", "--report", tmp_path / "report")
    medley("replay", trace, "--host", world.server(), *words)
    found = report_of(tmp_path / "report")
    assert (found["attempts"], found["seconds"]) == (20, 9.5)


def test_a_report_is_shown_again(world, medley, tmp_path):
    report = tmp_path / "report"
    words = ("ab", "--rate", 12, "--seconds", 8, "--slo", tmp_path / "slo.yaml", "--report", report)
    medley("run", *words, "--host", world.server())
    (report / "report.html").unlink()
    code, output = medley("report", report)
    assert code == 0
    assert "PASSED" in output
    assert (report / "report.html").exists()
    assert medley("report", tmp_path / "none")[0] == 2


def test_a_plan_says_what_a_scenario_would_prove(tmp_path):
    def planned(*words):
        result = CliRunner().invoke(commands.app, ["plan", *map(str, words)])
        return result.exit_code, " ".join(result.output.split())

    code, output = planned("smoke", "--promises", "cpu-ci")
    assert code == 0
    assert " requests in 30 s, up to 1 looks" in output
    assert "80.0% good" in output
    assert "takes 14: enough" in output
    assert "each other task that the server has, with a share of 1 to 11" in output
    assert "too few" in planned("smoke", "--rate", 0.5)[1]
    assert planned("none")[0] == 2
    assert planned("smoke", "--promises", "moon")[0] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"looks": True},
        {"looks": "2"},
        {"burstiness": float("nan")},
        {"drain_s": float("inf")},
        {"refusals_count": "yes"},
        {"stages": [{"rate": "1", "seconds": 15}]},
        {"parts": [{"task": "chat", "options": {"x": float("nan")}}]},
        {"name": 5},
    ],
    ids=str,
)
def test_a_scenario_with_a_value_of_another_type_is_refused(tmp_path, change):
    right = {"proves": "it", "stages": [{"rate": 1, "seconds": 15}], "parts": [{"task": "chat"}]}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(right))
    scenario.load(str(file))
    file.write_text(yaml.safe_dump(right | change))
    with pytest.raises(scenario.WrongScenario, match=r"mine\.yaml"):
        scenario.load(str(file))


def test_a_scenario_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(scenario.WrongScenario, match="cannot be read"):
        scenario.load(str(tmp_path / "folder.yaml"))


@pytest.mark.parametrize("name", scenario.names())
def test_each_scenario_can_be_read_and_is_promised_something(name):
    chosen = scenario.load(name)
    assert chosen.arrivals(1, None, None)
    kept = promises(commands.PROMISES, "cpu")
    named = [part for part in chosen.parts if part.task != scenario.EVERY_OTHER]
    assert all(kept.of(part.task, part.model or "").limits for part in named)
