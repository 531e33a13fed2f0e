"""A variant that is tried is a process of its own and nothing of it stays: a program in its place starts another."""

import sys
from types import SimpleNamespace

import psutil
import pytest
from patience import wait_until

from models.catalog import load_catalog
from models.specs import ModelSpec
from workshop.evaluation import trial

SPEC = load_catalog()["all-minilm-l6-v2"]
# Answers that it is loaded, and tells of the child that it has started, as an engine that has workers.
WORKER = f"""#!{sys.executable}
import json, pathlib, subprocess, sys
forever = [sys.executable, "-c", "import time; time.sleep(1000)"]
child = subprocess.Popen(forever, stdout=subprocess.DEVNULL)
pathlib.Path(__file__).with_name("child").write_text(str(child.pid))
sys.stdin.readline()
ENDS
print(json.dumps({{"done": "load"}}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    def write(ends: str = ""):
        program = tmp_path / "python"
        program.write_text(WORKER.replace("ENDS", ends))
        program.chmod(0o755)
        monkeypatch.setattr(trial, "sys", SimpleNamespace(executable=str(program)))
        return lambda: int((tmp_path / "child").read_text())

    return write


def is_over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_nothing_of_a_trial_stays(worker, tmp_path):
    child = worker()
    with trial.Trial(SPEC, SPEC.variant(None), tmp_path):
        assert not is_over(child())
    wait_until(lambda: is_over(child()), "what the variant had started to end")


def test_nothing_of_a_trial_stays_that_could_not_be_loaded(worker, tmp_path):
    child = worker("sys.exit('no such weights')")
    with pytest.raises(trial.TrialFailed, match="no such weights"):
        trial.Trial(SPEC, SPEC.variant(None), tmp_path)
    wait_until(lambda: is_over(child()), "what the variant had started to end")


def test_a_model_may_be_named_with_its_variant():
    """As one that is served beside its default is, and fetched and judged when it first starts."""
    named = SPEC.at(next(name for name in SPEC.variants if name != SPEC.default_variant))
    assert ModelSpec.model_validate(trial.as_json(named)).row == SPEC.row
    assert ModelSpec.model_validate(trial.as_json(named)).reference_variant == SPEC.reference_variant
