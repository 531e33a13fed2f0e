"""`medley logs`: one request through all files, and a model's replicas."""

import itertools
import json
import time
from pathlib import Path

import pytest
import typer
import yaml
from recorded_cluster import CHAT, RecordedCluster
from typer.testing import CliRunner

from medley.change import history
from medley.local import cluster
from medley.look import logs
from medley.look.log_lines import LogReader, parsed

ROUTER, REPLICA = "replica_router_router_6ajzy0fg.log", f"replica_{CHAT}_model_oiwszkqf.log"
SECOND = 1_000_000_000
START = 1795245663 * SECOND
DAY_AND_TIME = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(START // SECOND))


def entry(at_ms: float, message: str, request_id: str | None = "abc", **fields) -> str:
    """A line as Ray Serve writes it."""
    record = {"asctime": f"{DAY_AND_TIME},914", "levelname": "INFO", "message": message, "filename": "engine.py"}
    record |= {"worker_id": "cc54", "component_name": "replica", "timestamp_ns": START + int(at_ms * 1e6), **fields}
    return json.dumps(record | ({"request_id": request_id} if request_id else {})) + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "serve"
    folder.mkdir()
    monkeypatch.setattr(cluster, "logs", lambda: folder)
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(logs, "look_here", RecordedCluster().live)
    return folder


def run(*arguments: str):
    app = typer.Typer()
    app.command()(logs.logs)
    return CliRunner().invoke(app, arguments)


def texts(reader: LogReader) -> list[str]:
    return [line.message.strip() for line in reader.read()]


def test_a_request_is_followed_through_all_files_in_the_order_of_time(folder):
    fields = {"event": "request", "status": 200, "total_ms": 130.25}
    (folder / ROUTER).write_text(entry(5, "taken") + entry(135.25, "answered", **fields) + entry(140, "x", "other"))
    (folder / REPLICA).write_text(entry(10, "of no request", None) + entry(30, "call", event="call", queue_ms=2.5))
    (folder / "proxy_192.0.2.2.log").write_text(entry(4, "in"))
    done = run("abc")
    assert done.exit_code == 0
    assert [line[16:].split() for line in done.output.splitlines()] == [
        ["+0.0", "ms", "proxy_192.0.2.2", "in"],
        ["+1.0", "ms", "router", "6ajzy0fg", "taken"],
        ["+26.0", "ms", CHAT, "oiwszkqf", "call", "queue_ms=2.5"],
        ["+131.2", "ms", "router", "6ajzy0fg", "answered", "status=200", "total_ms=130.25"],
    ]
    assert done.output.startswith(f"{DAY_AND_TIME[11:]}.004")


def test_an_id_is_not_taken_for_a_part_of_another(folder):
    (folder / ROUTER).write_text(entry(1, "abc is in the text", "abcdef"))
    assert run("abc").exit_code == 1
    assert run("abcdef").exit_code == 0


def test_a_line_that_is_no_json_is_shown_as_it_is_after_the_line_before_it(folder):
    broken = '{"message": "abc, cut off\n'
    (folder / REPLICA).write_text(entry(30, "first") + f"vLLM prints abc here\n{broken}" + entry(50, "last"))
    (folder / ROUTER).write_text(entry(40, "between"))
    assert texts(LogReader(folder, request_id="abc")) == [
        "first",
        "vLLM prints abc here",
        broken.strip(),
        "between",
        "last",
    ]
    assert "vLLM prints abc here\n" in run("abc").output


def test_rotated_files_are_read_too(folder):
    (folder / f"{ROUTER}.2").write_text(entry(1, "one"))
    (folder / f"{ROUTER}.1").write_text(entry(2, "two"))
    (folder / ROUTER).write_text(entry(3, "three"))
    assert texts(LogReader(folder, request_id="abc")) == ["one", "two", "three"]


def test_a_line_without_nanoseconds_takes_its_asctime():
    with_both = parsed(Path(ROUTER), entry(914, "x").encode())
    assert parsed(Path(ROUTER), entry(0, "x", timestamp_ns=None).encode()).clock == with_both.clock


def test_a_traceback_stands_below_its_line_and_is_readable(folder):
    quoted = "('Traceback (most recent call last):\\n',)('  File \"x.py\", line 1\\n',)(\"ValueError: it's 1\\n\",)"
    (folder / REPLICA).write_text(entry(1, "Request failed.", levelname="ERROR", exc_text=quoted))
    output = run("abc").output.splitlines()
    assert "ERROR  Request failed." in output[0]
    assert output[1:] == [
        "    Traceback (most recent call last):",
        '      File "x.py", line 1',
        "    ValueError: it's 1",
    ]


def test_the_lines_of_a_models_replicas_only(folder):
    (folder / REPLICA).write_text(entry(2, "second", None))
    (folder / f"replica_{CHAT}_model_another1.log").write_text(entry(1, "first", None))
    (folder / f"replica_{CHAT}-large_model_x.log").write_text(entry(1, "of another model", None))
    (folder / f"replica_{CHAT}@transformers_model_y.log").write_text(entry(1, "of-another-variant", None))
    (folder / ROUTER).write_text(entry(1, "of the router"))
    output = run("--model", CHAT).output
    assert [line.split()[-1] for line in output.splitlines()] == ["first", "second"]
    assert run("--model", CHAT, "--last", "1").output.split()[-1] == "second"
    assert run("--model", f"{CHAT}@transformers").output.split()[-3:] == [
        f"{CHAT}@transformers",
        "y",
        "of-another-variant",
    ]
    assert "first" not in run("--model", CHAT, "--last", "1").output


def test_what_is_written_later_is_followed_through_rotation_and_half_lines(folder):
    path = folder / REPLICA
    path.write_text(entry(1, "one"))
    reader = LogReader(folder, request_id="abc")
    assert texts(reader) == ["one"]
    assert texts(reader) == []
    line = entry(2, "two")
    with path.open("a") as stream:
        stream.write(line[:20])
    assert texts(reader) == []
    with path.open("a") as stream:
        stream.write(line[20:] + entry(3, "three"))
    path.rename(f"{path}.1")
    path.write_text(entry(4, "four"))
    (folder / ROUTER).write_text(entry(5, "a new file"))
    assert texts(reader) == ["two", "three", "four", "a new file"]
    assert texts(reader) == []


def test_follow_shows_what_comes_until_it_is_interrupted(folder, monkeypatch):
    (folder / REPLICA).write_text(entry(1, "one"))
    beats = itertools.count()

    def sleep(_):
        if next(beats) == 2:
            raise KeyboardInterrupt
        with (folder / REPLICA).open("a") as stream:
            stream.write(entry(2, "more"))

    monkeypatch.setattr(logs.time, "sleep", sleep)
    done = run("abc", "--follow")
    assert done.exit_code == 0
    assert [line.split()[-1] for line in done.output.splitlines()] == ["one", "more", "more"]


def test_nothing_found_says_why(folder, monkeypatch):
    recorded = RecordedCluster()
    monkeypatch.setattr(logs, "look_here", recorded.live)
    (folder / ROUTER).write_text(entry(1, "x", "other"))
    (folder / "controller_24759.log").write_text(entry(0, "began", None))
    done = run("abc")
    assert done.exit_code == 1
    assert "No line of the request abc" in done.output
    assert f"the first line of this one is of {DAY_AND_TIME}" in done.output
    assert "access_log" not in done.output
    assert "older than what is kept" not in done.output
    recorded.application("router")["deployed_app_config"]["args"]["access_log"] = False
    (folder / f"{ROUTER}.5").write_text("")
    output = run("abc").output
    assert "its argument `access_log` is off" in output
    assert "older than what is kept" in output


def test_lines_that_serve_keeps_back_are_named(folder):
    history.folder().mkdir(parents=True)
    document = {
        "applications": [],
        "controller_options": {"runtime_env": {"env_vars": {"RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000"}}},
    }
    history.keep(document, "start", started=True)
    assert yaml.safe_load(history.latest_good().path.read_text()) == document
    assert "up to 1000 lines before it writes them" in run("abc").output


def test_no_cluster_has_run_here(folder, monkeypatch):
    monkeypatch.setattr(cluster, "logs", lambda: folder / "none")
    assert "No cluster has run on this machine" in run("abc").output


def test_nothing_of_a_model_says_why(folder):
    done = run("--model", "smolm2-135m-instruct")
    assert done.exit_code == 1
    assert f"Did you mean {CHAT}" in done.output
    assert f"`medley doctor {CHAT}`" in run("--model", CHAT).output
    (folder / REPLICA).write_text("")
    output = run("--model", CHAT).output
    assert "written nothing yet" in output
    assert "before it writes them" not in output


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ((CHAT,), f"`medley logs --model {CHAT}`"),
        (("smolm2-135m-instruct",), f"`medley logs --model {CHAT}`"),
        ((f"{CHAT}@vllm-cpu",), f"`medley logs --model {CHAT}@vllm-cpu`"),
        (("my-own-model",), "`medley logs --model my-own-model`"),
        (("--model", "abc"), "`medley logs abc`"),
        (("--model", "router"), "`medley logs REQUEST_ID`"),
    ],
)
def test_a_model_for_a_request_and_a_request_for_a_model_are_told_apart(folder, words, meant):
    (folder / ROUTER).write_text(entry(1, "x", "abc"))
    (folder / "replica_my-own-model_model_oiwszkqf.log").write_text(entry(2, "y", "abc"))
    done = run(*words)
    assert done.exit_code == 1
    assert meant in done.output


def test_a_slip_that_would_wait_for_ever_is_said_before(folder, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(logs.time, "sleep", interrupted)
    assert f"`medley logs --model {CHAT}`" in run(CHAT, "--follow").output


def test_a_request_that_is_named_like_a_model_is_shown(folder):
    (folder / ROUTER).write_text(entry(1, "x", CHAT))
    done = run(CHAT)
    assert done.exit_code == 0
    assert "is a model" not in done.output


def test_a_request_and_a_model_are_not_asked_for_together(folder):
    assert run().exit_code == 2
    assert run("abc", "--model", CHAT).exit_code == 2


def test_the_last_words_and_the_last_call_of_a_model(folder):
    assert logs.last_call(CHAT, folder) is None
    (folder / REPLICA).write_text(
        entry(1000, "call", event="call") + entry(2000, "call", event="call") + entry(9000, "bye", None)
    )
    assert logs.last_call(CHAT, folder) == pytest.approx(START / 1e9 + 2)
    assert [text.split()[-1] for text in logs.last_words(CHAT, folder, 2)] == ["call", "bye"]


def test_the_tail_of_a_long_file_begins_with_a_whole_line(folder):
    (folder / REPLICA).write_text("".join(entry(at, f"line {at}") for at in range(1000)))
    words = logs.last_words(CHAT, folder, 10_000)
    assert words[-1].endswith("line 999")
    assert 100 < len(words) < 1000
    assert all("line" in word and "{" not in word for word in words)
