"""`medley check` on the shipped files, on every seeded mistake, and on what is not even a document."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from seeded_mistakes import CATALOG, MISTAKES, SERVE, SLO, shipped
from typer.testing import CliRunner

from medley.checks.command import check, default_files, problems_of
from medley.checks.config import ClusterConfig, ConfigError, read_config
from medley.checks.entries import MODEL_BUILDER
from medley.checks.machine import Machine
from medley.checks.serve import serve_variables
from medley.checks.yaml_lines import Problem
from models import choice
from models.catalog import FOLDER, load_catalog, read_catalog

GPU = "serve_config.gpu.yaml"
ODD_VALUES = [None, -1, "x", [], {}, [1], {"a": 1}, float("inf")]


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """A folder with the shipped documents, as the working directory."""
    for file in (SERVE, GPU, SLO):
        (tmp_path / file).write_text(shipped(file))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here):
    app = typer.Typer()
    app.command()(check)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def messages(path: Path) -> list[str]:
    return [str(problem) for problem in problems_of(path)]


@pytest.mark.parametrize("file", [SERVE, GPU, SLO, CATALOG, "models/catalog/chat.yaml"])
def test_a_shipped_file_has_no_problems(file, tmp_path):
    path = tmp_path / Path(file).name
    path.write_text(shipped(file))
    assert messages(path) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_its_line_and_nothing_else_is(mistake, tmp_path):
    file = mistake.made_in(tmp_path)
    assert messages(file) == [mistake.seen(file)]


def test_all_mistakes_of_a_file_are_named_at_once_in_the_order_of_its_lines(tmp_path):
    text = shipped(SERVE)
    wrong = [("  port: 8000", "  port: 80000"), ("max_surge_percent", "max_surge_percnt"), ("onnx", "onyx")]
    for old, new in wrong:
        text = text.replace(old, new, 1)
    file = tmp_path / "serve_config.yaml"
    file.write_text(text)
    found = problems_of(file)
    assert [problem.line for problem in found] == sorted(
        number for number, line in enumerate(text.splitlines(), 1) if any(new in line for _, new in wrong)
    )
    assert len(found) == 3


@pytest.mark.parametrize("mistake", [one for one in MISTAKES if one.file == SERVE], ids=lambda mistake: mistake.name)
def test_a_config_with_a_mistake_is_not_served(mistake, tmp_path):
    file = mistake.made_in(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value) == mistake.seen(file)


@pytest.mark.parametrize("task", ["[embeddings]", "{}", "null", "5"])
def test_what_is_no_name_of_a_task_is_named_and_nothing_is_said_of_the_settings(tmp_path, task):
    file = tmp_path / "embeddings.yaml"
    file.write_text(shipped(CATALOG).replace("task: embeddings", f"task: {task}", 1))
    (message,) = messages(file)
    assert "model all-minilm-l6-v2, task: must be chat or embeddings" in message


@pytest.mark.parametrize("file", [SERVE, CATALOG, SLO])
def test_an_odd_value_in_any_place_is_judged_without_a_traceback(file, tmp_path):
    """Another one in every second place, by the seed; in all places, and all of them, in the matrix."""
    assert_judged_without_a_traceback(
        file, tmp_path, lambda: random.choice(ODD_VALUES), slice(random.randrange(2), None, 2)
    )


@pytest.mark.parametrize("task", [{}, []], ids=str)
def test_a_task_that_is_not_a_name_is_a_mistake_of_its_row(task, tmp_path):
    document = yaml.safe_load(shipped(CATALOG))
    document["models"][0]["task"] = task
    target = tmp_path / Path(CATALOG).name
    target.write_text(yaml.safe_dump(document))
    assert any(".task" in one or ", task" in one for one in messages(target))


@pytest.mark.matrix
@pytest.mark.parametrize("value", ODD_VALUES, ids=str)
@pytest.mark.parametrize("file", [SERVE, CATALOG, SLO])
def test_any_value_in_any_place_is_judged_without_a_traceback(file, value, tmp_path):
    assert_judged_without_a_traceback(file, tmp_path, lambda: value)


def assert_judged_without_a_traceback(
    file: str, folder: Path, odd: Callable[[], Any], which: slice = slice(None)
) -> None:
    document = yaml.safe_load(shipped(file))
    target = folder / Path(file).name
    places = [path for path in paths(document) if path][which]
    refused = 0
    for path in places:
        changed = copy.deepcopy(document)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = odd()
        target.write_text(yaml.dump(changed, Dumper=yaml.CSafeDumper, sort_keys=False))
        found = problems_of(target)
        for problem in found:
            assert "\n" not in str(problem), path
            assert "object has no attribute" not in problem.message, path
        refused += bool(found)
    # Few places take anything at all, such as a text for people.
    assert refused > len(places) / 2


NO_NUMBERS = [
    str,
    lambda _: True,
    lambda _: float("nan"),
    lambda _: float("-inf"),
    lambda _: "1e1",
]


@pytest.mark.parametrize("file", [SERVE, SLO, CATALOG])
def test_what_is_no_number_is_refused_wherever_a_number_stands(file, tmp_path):
    """Another one in each place, by the seed."""
    document = yaml.safe_load(shipped(file))
    target = tmp_path / Path(file).name
    passed = []
    for path in paths(document):
        changed = copy.deepcopy(document)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if not path or isinstance(holder[path[-1]], bool) or not isinstance(holder[path[-1]], int | float):
            continue
        if {"engine", "options"} & set(path):  # of a backend or a maker, which says itself what it takes
            continue
        holder[path[-1]] = random.choice(NO_NUMBERS)(holder[path[-1]])
        target.write_text(yaml.dump(changed, Dumper=yaml.CSafeDumper, sort_keys=False))
        if not problems_of(target):
            passed.append((path, holder[path[-1]]))
    assert passed == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0.0.0.0", "::", "::1", "fe80::1%eth0", "localhost", "models.example.com", "node-1", "1.node"],
)
def test_a_host_is_an_address_or_a_name(tmp_path, host):
    assert messages(with_host(tmp_path, host)) == []


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1",
        "",
        "not a host",
        "127.0.0.1:8000",
        "[::1]",
        "localhost/v1",
        "256.1.1.1",
        "1.2.3",
        "-a",
        "a..b",
        "a" * 64,
        "under_score",
        " localhost",
        "*",
        "l\u043ecalhost",
    ],
)
def test_what_is_no_host_is_refused(tmp_path, host):
    (message,) = messages(with_host(tmp_path, host))
    assert "http_options.host: " in message
    assert "is neither an IP address nor the name of a host" in message


@pytest.mark.parametrize("host", ["[]", "yes", "5", "null"])
def test_what_is_no_text_is_no_host(tmp_path, host):
    file = tmp_path / "serve_config.yaml"
    file.write_text(shipped(SERVE).replace("host: 127.0.0.1", f"host: {host}"))
    (message,) = messages(file)
    assert "http_options.host: must be text" in message


def with_host(folder, host):
    file = folder / "serve_config.yaml"
    file.write_text(shipped(SERVE).replace("host: 127.0.0.1", f"host: {json.dumps(host)}"))
    return file


@pytest.mark.parametrize(
    ("host", "address"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("a.example", "a.example")]
)
def test_a_client_on_this_machine_finds_every_host(host, address):
    assert ClusterConfig(Path(), {"http_options": {"host": host}}, []).address == f"http://{address}:8000"


@pytest.mark.parametrize("written", ["16.0", "0x10", "1_6", "1.6e+1"])
def test_a_whole_number_may_be_written_otherwise(tmp_path, written):
    """Where Serve itself takes it: of max_queued_requests it takes no 16.0."""
    file = tmp_path / "serve_config.yaml"
    file.write_text(shipped(SERVE).replace("keep_alive_timeout_s: 90", f"keep_alive_timeout_s: {written}"))
    assert messages(file) == []
    assert read_config(file).document["http_options"]["keep_alive_timeout_s"] == 16


@pytest.mark.parametrize("written", ["16.5", "1e1", '"16"', "16 s", "on"])
def test_what_only_looks_like_a_whole_number_is_refused(tmp_path, written):
    file = tmp_path / "serve_config.yaml"
    file.write_text(shipped(SERVE).replace("max_queued_requests: 64", f"max_queued_requests: {written}", 1))
    assert "max_queued_requests: must be a whole number, but is" in messages(file)[0]


def paths(value, path=()):
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(item, (*path, key))


@pytest.mark.parametrize(
    ("timeout", "holds", "place"),
    [("graceful_shutdown_timeout_s: 120", 120, "is below"), ("", 900, "the builder's 900")],
)
def test_draining_is_compared_with_the_deadline_that_holds(timeout, holds, place, tmp_path):
    """Without a timeout the builder's holds."""
    text = shipped(SERVE).replace("graceful_shutdown_timeout_s: 900", timeout)
    text = text.replace("request_timeout_s: 900", "request_timeout_s: 2000")
    file = tmp_path / "serve_config.yaml"
    file.write_text(text.replace("args: {promises: cpu,", f"args: {{deadline_s: {holds},"))
    assert messages(file) == []
    file.write_text(text.replace("args: {promises: cpu,", f"args: {{deadline_s: {holds + 1},"))
    found = messages(file)
    assert len(found) == text.count(f"import_path: {MODEL_BUILDER}")
    assert all(place in one and f"below the router's deadline_s ({holds + 1})" in one for one in found)


def test_a_file_with_a_broken_catalog_says_what_is_wrong_with_the_catalog(here, tmp_path, monkeypatch):

    folder = tmp_path / "catalog"
    folder.mkdir()
    (folder / "embeddings.yaml").write_text(shipped(CATALOG).replace("owner: BAAI", "ownr: BAAI", 1))
    monkeypatch.setattr("medley.checks.catalog.FOLDER", folder)
    monkeypatch.setattr("medley.checks.catalog.load_catalog", lambda: read_catalog(folder))
    (message,) = messages(here / SERVE)
    assert message.startswith(f"{folder / 'embeddings.yaml'}:")
    assert "Did you mean owner?" in message


def test_a_replica_that_no_machine_like_this_can_hold_is_a_problem(here):
    small = Machine(cpus=2, gpus=0, memory_gib=16)
    found = problems_of(here / GPU, small)
    llama = next(one.message for one in found if "llama" in one.where)
    assert llama == (
        "impossible resources: one replica needs 4 of this machine's 2 CPUs, 1 of its 0 GPUs, 32 of its 16 GiB of "
        "memory. Choose another variant, or another machine."
    )
    assert problems_of(here / GPU, Machine(cpus=4, gpus=1, memory_gib=32)) == []
    assert problems_of(here / SERVE, small) == []


AGAIN = """
  - name: all-minilm-l6-v2@onnx
    route_prefix: null
    import_path: deployments.model:build
    args: {model: all-minilm-l6-v2@onnx}
    deployments: [{name: model, max_ongoing_requests: 8, max_queued_requests: 8}]
"""


def with_embeddings(folder: Path, args: str, name: str = "all-minilm-l6-v2") -> Path:
    """The shipped config with other arguments of the embedding model."""
    text = shipped(SERVE).replace("  - name: all-minilm-l6-v2\n", f"  - name: {name}\n")
    file = folder / "serve_config.yaml"
    file.write_text(text.replace('{model: all-minilm-l6-v2, variant: onnx, release: "1"}', args))
    return file


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ("{model: all-minilm-l6-v2, variant: auto}", "all-minilm-l6-v2"),
        ("{model: all-minilm-l6-v2@torch}", "all-minilm-l6-v2@torch"),
        ("{model: all-minilm-l6-v2@torch, variant: torch}", "all-minilm-l6-v2@torch"),
    ],
)
def test_a_variant_may_be_left_to_measurements_or_stand_in_the_name(args, name, tmp_path):
    assert messages(with_embeddings(tmp_path, args, name)) == []


def test_a_variant_beside_another_one_of_its_model_is_right(tmp_path):
    file = with_embeddings(tmp_path, "{model: all-minilm-l6-v2, variant: torch}")
    file.write_text(file.read_text().replace("\n  - name: router", AGAIN + "\n  - name: router"))
    assert messages(file) == []
    assert [one.app for one in read_config(file).models][-1] == "all-minilm-l6-v2@onnx"


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("upscale_delay_s: 10", "12.5"),
        ("upscaling_factor: 1", "32.5"),  # and Serve's default
        ("upscale_delay_s: 1\n          aggregation_function: mean", None),
        ("upscale_delay_s: 1.5", None),
    ],
)
def test_replicas_that_are_ordered_late_are_a_warning(run, tmp_path, line, seconds):
    file = tmp_path / SERVE
    file.write_text(shipped(SERVE).replace("upscale_delay_s: 1", line))
    found = problems_of(file)
    assert [one.stops for one in found] == ([False] if seconds else [])
    assert all(f"another replica is ordered about {seconds} s after it is needed" in one.message for one in found)
    assert run(file).exit_code == 0


def test_one_that_has_one_replica_only_orders_none(tmp_path):
    file = tmp_path / SERVE
    file.write_text(
        shipped(SERVE)
        .replace("upscale_delay_s: 1", "upscale_delay_s: 10")
        .replace("max_replicas: 2", "max_replicas: 1")
    )
    assert messages(file) == []


def test_a_variant_that_is_served_twice_is_a_warning(run, tmp_path):
    text = shipped(SERVE)
    file = tmp_path / "serve_config.yaml"
    file.write_text(text.replace("\n  - name: router", AGAIN + "\n  - name: router"))
    (warning,) = problems_of(file)
    names = [number for number, line in enumerate(file.read_text().splitlines(), 1) if "- name: all-minilm" in line]
    assert (warning.line, warning.where, warning.stops) == (names[1], "application all-minilm-l6-v2@onnx, name", False)
    assert warning.message == (
        f"warning: all-minilm-l6-v2 (line {names[0]}) also serves the variant onnx, so it is loaded twice. "
        "Requests for all-minilm-l6-v2@onnx would reach all-minilm-l6-v2 without this one."
    )
    result = run(file)
    assert (result.exit_code, result.output) == (0, f"{warning}\n1 file, no problems, 1 warning.\n")
    assert [one.app for one in read_config(file).models][-1] == "all-minilm-l6-v2@onnx"


def test_a_variant_that_is_to_be_chosen_is_asked_whether_it_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "chosen_variant", lambda spec: "torch-gpu")
    file = with_embeddings(tmp_path, "{model: all-minilm-l6-v2, variant: auto}")
    assert [one.where for one in problems_of(file, Machine(2, 0, 16))] == ["application all-minilm-l6-v2, args.variant"]
    assert problems_of(file, Machine(2, 1, 16)) == []


def test_a_config_names_the_variant_that_was_chosen_and_why(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "choose", lambda spec: choice.Choice("torch", f"{spec.id} is fast so"))
    config = read_config(with_embeddings(tmp_path, "{model: all-minilm-l6-v2, variant: auto}"))
    assert config.choices == {"all-minilm-l6-v2": "auto -> torch: all-minilm-l6-v2 is fast so"}
    served = next(one for one in config.models if one.app == "all-minilm-l6-v2")
    assert served.variant_name == "torch"
    written = next(one for one in config.document["applications"] if one["name"] == "all-minilm-l6-v2")
    assert written["args"] == {"model": "all-minilm-l6-v2", "variant": "torch"}


def test_a_variant_cannot_be_chosen_by_promises_that_are_not_valid(tmp_path, monkeypatch):
    def choose(spec):
        raise ValueError("slo.yaml is not valid.")

    monkeypatch.setattr(choice, "choose", choose)
    with pytest.raises(ConfigError, match=r"all-minilm-l6-v2: its variant cannot be chosen\. slo\.yaml is not valid\."):
        read_config(with_embeddings(tmp_path, "{model: all-minilm-l6-v2, variant: auto}"))


def test_here_asks_this_machine(run, monkeypatch):
    monkeypatch.setattr("medley.checks.command.this_machine", lambda: Machine(cpus=1, gpus=0, memory_gib=1))
    assert run(SERVE).exit_code == 0
    result = run(SERVE, "--here")
    assert result.exit_code == 1
    assert "4 of this machine's 1 GiB of memory" in result.output


def test_without_names_every_document_is_checked(run):
    result = run()
    assert result.exit_code == 0, result.output
    assert result.output == f"{2 + len(list(FOLDER.glob('*.yaml')))} files, no problems.\n"
    catalog = sorted(f"{task}.yaml" for task in {spec.task for spec in load_catalog().values()})
    assert [path.name for path in default_files()] == [SERVE, *catalog, SLO]


def test_problems_are_counted_and_make_the_command_fail(run, tmp_path):
    file = MISTAKES[0].made_in(tmp_path)
    result = run(file, file, tmp_path / "none.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        MISTAKES[0].seen(file),
        f"{tmp_path / 'none.yaml'} cannot be read: No such file or directory. Check the name.",
    ]
    assert result.stderr == "2 problems in 2 files.\n"


def test_variables_are_those_of_rays_source():
    assert {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_LOG_TO_STDERR"} <= serve_variables()
    assert len(serve_variables()) > 100


def test_a_problem_reads_as_file_line_place_and_message():
    assert str(Problem(Path("a.yaml"), 3, "here", "is wrong.")) == "a.yaml:3: here: is wrong."
    assert str(Problem(Path("a.yaml"), 3, "", "is wrong.")) == "a.yaml:3: is wrong."
