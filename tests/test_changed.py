"""Which tests a change touches."""

from pathlib import Path

import pytest
from changed import ROOT, touched_by


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
