"""The planted faults fit to the code as it is: whoever changes a line that one spoils changes the fault, too.

That the tests find them is shown by tests/mutations/run.py, which is a part of the release tier."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "tests" / "mutations" / "run.py"


@pytest.fixture(scope="module")
def run():
    """The program that plants them. It is not imported by its name, which says little beside others."""
    spec = importlib.util.spec_from_file_location("mutations_run", RUN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mutations_run", module)  # its dataclasses look there
        spec.loader.exec_module(module)
        yield module


def test_the_text_of_each_fault_is_in_its_file_once(run):
    texts = {fault.file: (ROOT / fault.file).read_text() for fault in run.read_faults() if (ROOT / fault.file).exists()}
    stale = [fault.id for fault in run.read_faults() if texts.get(fault.file, "").count(fault.old) != 1]
    assert stale == []


def test_each_changes_something_and_says_what_it_means(run):
    assert [fault.id for fault in run.read_faults() if fault.old == fault.new or not fault.means.endswith(".")] == []


def test_the_tests_that_each_names_are_there(run):
    missing = {
        fault.id: pattern for fault in run.read_faults() for pattern in fault.tests if not any(ROOT.glob(pattern))
    }
    assert missing == {}
    assert all(fault.tests for fault in run.read_faults())
