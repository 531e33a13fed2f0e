"""What may import what: the builders and the router stay light."""

import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ENGINES = {"torch", "transformers", "vllm", "onnxruntime", "diffusers"}


def imported_by(code: str) -> set[str]:
    """Top-level packages that are loaded in a fresh process after running the code."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment
    )
    return set(result.stdout.split())


def test_the_router_imports_neither_ray_nor_an_engine():
    loaded = imported_by("import deployments.router.application")
    assert {"fastapi", "deployments"} <= loaded
    assert loaded & (ENGINES | {"ray"}) == set()


def test_the_builders_and_all_servers_import_no_engine():
    loaded = imported_by(
        "import deployments.router.ingress\n"
        "from deployments.model import server_class\n"
        "from models.registry import backends_of\n"
        "from models.tasks import TASKS\n"
        "for task in TASKS:\n"
        "    for backend in backends_of(task): server_class(task, backend)"
    )
    assert {"ray", "deployments"} <= loaded
    assert loaded & ENGINES == set()


def test_the_command_line_waits_for_no_library_that_only_some_commands_need():
    loaded = imported_by("import medley.main")
    assert {"typer", "medley"} <= loaded
    assert loaded & (ENGINES | {"ray", "matplotlib", "scipy", "skimage", "locust", "gevent", "jsonschema"}) == set()


PACKAGES = ("models", "workshop", "deployments", "medley", "loadtest")
# Imports that close a circle and are yet to go.
EXPECTED = {("loadtest.report.knee", "loadtest.searching")}


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count: who reads one module of a circle must read them all."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {
        module: {one for one in graph.find_modules_directly_imported_by(module) if (module, one) not in EXPECTED}
        for module in graph.modules
    }
    assert "workshop.evaluation.chat_vllm" in imports["workshop.evaluation.chat"]  # which is inside a function
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_the_import_contracts_are_kept():
    tool = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([tool, "--no-cache"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "0 broken" in result.stdout
