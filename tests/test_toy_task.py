"""What adding a task costs, by adding one: to a copy of Medley, whose tests then run."""

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from patience import slowness_of_cpu

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "tests" / "toy"
COPIED = ("models", "workshop", "deployments", "medley", "loadtest")
LIST = Path("models/tasks/__init__.py")
# Tests of metrics that no other task has.
OF_ITS_METRICS = ("medley_audio_seconds", "medley_characters", "medley_real_time_factor", "test_every_panel_has_a_unit")


def own_files() -> list[Path]:
    """Where in Medley the files of the task go."""
    parts = [folder for folder in COPIED if (TOY / folder).is_dir()]
    files = (file for part in parts for file in (TOY / part).rglob("*") if file.is_file())
    return sorted(file.relative_to(TOY) for file in files if "__pycache__" not in file.parts)


def with_the_task(text: str) -> str:
    """The list of tasks with one more."""
    return text.replace('"styles")', '"styles", "tones")', 1)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Medley with one more task."""
    folder = tmp_path_factory.mktemp("medley")
    ignored = shutil.ignore_patterns("__pycache__", "starter")
    for package in COPIED:
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    (folder / "models" / "starter").symlink_to(ROOT / "models" / "starter")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "toy", "mutations"))
    shutil.copytree(TOY / "inside", folder / "tests" / "toy" / "inside")
    for file in ("pyproject.toml", "slo.yaml", "serve_config.yaml"):
        shutil.copy(ROOT / file, folder / file)
    for file in own_files():
        shutil.copy(TOY / file, folder / file)
    (folder / LIST).write_text(with_the_task((ROOT / LIST).read_text()))
    return folder


@pytest.fixture(scope="module")
def outcomes(copy) -> dict[str, str]:
    """Of the tests of all tasks that are about this one, and of those of its own: "passed" or what went wrong."""
    results = copy / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    command += ["-k", " or ".join(("tones", *OF_ITS_METRICS)), "-m", "not matrix", f"--junitxml={results}"]
    command += [
        "tests/tasks",
        "tests/toy/inside",
        "tests/deployments/test_metering.py",
        "tests/medley_cli/test_monitoring.py",
    ]
    environment = os.environ | {"PYTHONPATH": str(copy), "MEDLEY_TEST_COSTS": ""}
    seconds = 120 * slowness_of_cpu()
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert results.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for case in ElementTree.parse(results).iter("testcase"):
        wrong = [one for kind in ("failure", "error") for one in case.iter(kind)]
        found[case.get("name") or ""] = wrong[0].get("message") or "failed" if wrong else "passed"
    return found


def test_it_takes_no_more_than_six_files_of_its_own():
    files = [str(file) for file in own_files()]
    assert len(files) <= 6
    assert files == [
        "deployments/router/routes/tones.py",
        "models/catalog/tones.yaml",
        "models/engines/tones_fake.py",
        "models/tasks/tones.py",
    ]


def test_it_shares_one_line_with_others():
    before = (ROOT / LIST).read_text()
    changed = [
        line for line in difflib.ndiff(before.splitlines(), with_the_task(before).splitlines()) if line[0] in "+-"
    ]
    assert [line[0] for line in changed] == ["-", "+"]


def test_it_uses_what_every_task_may_use():
    """The public contract: no module of one task, and nothing whose name begins with an underscore."""
    code = "\n".join((TOY / file).read_text() for file in own_files() if file.suffix == ".py")
    imported = {line.split()[1] for line in code.splitlines() if line.startswith("from ")}
    ours = {module for module in imported if module.split(".")[0] in COPIED}
    assert ours == {
        "deployments.router.endpoint",
        "deployments.router.wire",
        "models.errors",
        "models.specs",
        "models.tasks.methods",
        "models.tasks.task",
        "models.tasks.tones",
        "models.tasks.usage",
    }
    assert "import _" not in code


def test_it_passes_every_test_of_tasks_and_its_own(outcomes):
    assert {name: said for name, said in outcomes.items() if said != "passed"} == {}


@pytest.mark.parametrize(
    "what",
    [
        "test_there_is_a_fake_engine_a_server_and_a_row[tones]",
        "test_its_samples_go_through_methods_of_its_own_and_are_answered[tones]",
        "test_what_it_counts_is_used_measured_and_written_down[tones]",
        "test_something_is_promised_that_it_can_keep[cpu-tones]",
        "test_the_card_of_a_model_has_its_example_and_the_task[tones]",
        "test_no_spoiled_body_is_a_server_error[15-/v1/audio/tones]",
        "test_the_description_has_a_summary_a_tag_and_an_example_that_is_answered[/v1/audio/tones]",
        "test_the_official_client_reads_answers_and_errors[/v1/audio/tones]",
        "test_names_are_as_prometheus_asks[medley_real_time_factor]",
        "test_every_panel_has_a_unit_a_description_and_a_query",
        "test_the_doctor_asks_for_it",
        "test_a_load_test_asks_for_its_example_and_judges_the_promise[kept]",
        "test_a_load_test_asks_for_its_example_and_judges_the_promise[broken]",
    ],
)
def test_what_it_passes_is_all_that_a_task_has(outcomes, what):
    assert outcomes[what] == "passed"
