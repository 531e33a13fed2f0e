"""Which tests a change touches."""

from pathlib import Path

import pytest
from changed import ROOT, downstream, touched_by


def touched(*files: str) -> set[str]:
    found = touched_by(list(files))
    assert found is not None
    return {str(path.relative_to(ROOT)) for path in found}


@pytest.mark.parametrize(
    ("file", "test"),
    [
        ("deployments/router/routes/embeddings.py", "tests/router/test_embeddings.py"),
        ("models/engines/images_onnx/engine.py", "tests/engines/test_images_onnx.py"),
        ("models/engines/styles_onnx.py", "tests/engines/test_engines.py"),  # by way of the registry, which names it
        ("medley/change/plan.py", "tests/medley_cli/test_plan.py"),
        ("loadtest/tasks/chat.py", "tests/loadtests/test_harness_tasks.py"),  # found by the name of its task
        ("workshop/evaluation/styles.py", "tests/workshop/test_floors.py"),
        ("tests/toy/models/tasks/tones.py", "tests/test_toy_task.py"),  # copied, and imported by nothing here
        ("tests/toy/inside/test_tones.py", "tests/test_toy_task.py"),
        ("tests/mutations/faults.yaml", "tests/test_faults.py"),
        ("tests/mutations/run.py", "tests/test_faults.py"),
        ("tests/medley_cli/samples/nodes.json", "tests/medley_cli/test_status.py"),
        ("models/catalog/chat.yaml", "tests/models/test_catalog.py"),
        ("k8s/base/rayservice.yaml", "tests/k8s/test_overlays.py"),
        ("slo.yaml", "tests/medley_cli/test_slo.py"),
        ("README.md", "tests/test_readme.py"),
        ("tests/router/conftest.py", "tests/router/test_images.py"),
        ("tests/router/test_images.py", "tests/router/test_images.py"),
    ],
)
def test_a_change_touches_its_tests(file, test):
    assert (ROOT / file).is_file()
    assert test in touched(file)


@pytest.mark.parametrize(
    ("module", "found_by"),
    [
        ("models.tasks.styles", "models.tasks"),
        ("models.engines.styles_fake", "models.registry"),
        ("models.engines.images_onnx.engine", "models.registry"),
        ("deployments.servers.styles", "deployments.model"),
        ("deployments.servers.chat_vllm", "deployments.model"),
        ("deployments.router.routes.styles", "deployments.router.routes"),
        ("loadtest.tasks.styles", "loadtest.tasks"),
        ("workshop.evaluation.styles", "workshop.evaluation.evaluation"),
    ],
)
def test_what_is_found_by_the_name_of_its_task_touches_who_finds_it(module, found_by):
    assert found_by in downstream({module})


def test_a_change_of_the_load_tests_touches_no_engine_and_no_route():
    found = touched("loadtest/bounds.py")
    assert "tests/loadtests/test_harness_verdict.py" in found
    assert not [test for test in found if Path(test).parts[1] in ("engines", "router")]


def test_a_decision_touches_nothing():
    assert touched("docs/decisions/0001-one-application-per-model.md") == set()


GONE = ["models/taken_out.py", "tests/taken_out.py", "tests/router/taken_out/conftest.py"]


@pytest.mark.parametrize(
    "file", ["Makefile", "tests/conftest.py", "requirements/cpu.in", "benchmarks/vectors.py", *GONE]
)
def test_what_may_touch_everything_does(file):
    assert touched_by([file]) is None
