"""The rules of the tests themselves: what a test of every commit may cost, and which tests those are."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import costs
import parts
import pytest
from patience import patience, wait_until

pytest_plugins = ["pytester"]

BUSY = """
import threading
import time
import pytest

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Runs tests under the rules of this project, with a limit of a fifth of a second."""
    pytester.makeini("[pytest]\nmarkers = matrix: part: whole\n")
    pytester.makeconftest('pytest_plugins = ["tiers", "costs"]')

    def run(tests, *arguments):
        pytester.makepyfile(BUSY + tests)
        with monkeypatch.context() as only_inside:
            only_inside.setattr("costs.LIMIT_S", 0.2)
            only_inside.setattr("costs.slowness_of_cpu", lambda: 1.0)
            only_inside.setattr("costs.ledger", costs.Ledger())
            only_inside.delenv("MEDLEY_TEST_COSTS", raising=False)
            return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:asyncio", *arguments)

    return run


def test_a_dear_test_fails_and_its_fixtures_are_on_its_bill(suite):
    found = suite("""
@pytest.fixture
def dear():
    burn(0.3)

def test_dear():
    burn(0.3)

def test_with_a_dear_fixture(dear):
    pass

def test_that_sleeps():
    time.sleep(0.4)
""")
    found.assert_outcomes(passed=1, failed=2)
    found.stdout.fnmatch_lines(["*test_dear took 0.* CPU seconds*"])


def test_what_a_test_s_own_fixture_does_at_its_end_is_on_its_bill(suite):
    found = suite("""
@pytest.fixture
def dear_at_its_end():
    yield
    burn(0.3)

def test_it(dear_at_its_end):
    pass
""")
    found.assert_outcomes(passed=1, errors=1)


def test_a_shared_fixture_that_ends_among_tests_is_on_the_bill_of_none(suite):
    found = suite("""
@pytest.fixture(scope="module", params=[1, 2])
def shared(request):
    yield
    burn(0.3)

def test_it(shared):
    pass
""")
    found.assert_outcomes(passed=2)


def test_children_are_on_the_bill_of_their_test(suite):
    found = suite("""
import subprocess
import sys

def test_dear():
    code = "import time; end = time.process_time() + 0.3\\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
""")
    found.assert_outcomes(failed=1)


def test_a_fixture_that_tests_share_is_on_nobodys_bill(suite):
    found = suite("""
@pytest.fixture(scope="module")
def engine():
    burn(0.3)

def test_it(engine):
    pass
""")
    found.assert_outcomes(passed=1)


PARTS = """
def test_of_every_commit():
    pass

@pytest.mark.matrix
def test_of_a_part():
    burn(0.3)
"""


@pytest.mark.parametrize(("arguments", "passed"), [((), 1), (("-m", "matrix"), 1), (("-m", "matrix or not matrix"), 2)])
def test_parts_run_when_they_are_asked_for(suite, arguments, passed):
    suite(PARTS, *arguments).assert_outcomes(passed=passed, deselected=2 - passed)


def test_a_test_of_a_part_that_is_named_runs(suite, pytester):
    name = "test_a_test_of_a_part_that_is_named_runs.py::test_of_a_part"
    suite(PARTS, name).assert_outcomes(passed=1)


def test_a_test_that_is_named_brings_no_others_of_a_part(suite, pytester):
    pytester.makepyfile(test_others=BUSY + PARTS)
    name = "test_a_test_that_is_named_brings_no_others_of_a_part.py::test_of_a_part"
    suite(PARTS, name, "test_others.py").assert_outcomes(passed=2, deselected=1)


def test_the_tests_of_a_part_lie_where_its_target_looks(pytestconfig):
    """Elsewhere they would run nowhere, in silence."""
    makefile = Path(parts.ROOT, "Makefile").read_text()
    markers = [line.partition(":")[0] for line in pytestconfig.getini("markers") if ": part:" in line]
    for marker in set(markers) - {"image", "mutations"}:
        folders = re.search(rf" -m {marker} (.+)", makefile)
        assert folders, f"no target runs {marker}"
        assert f"test-{marker}" in parts.PARTS
        looks = [Path(parts.ROOT, folder) for folder in folders[1].split()]
        files = [file for file in Path(parts.ROOT, "tests").rglob("*.py") if f"mark.{marker}" in file.read_text()]
        assert files
        assert not [file for file in files if not any(file.is_relative_to(folder) for folder in looks)]


def test_who_stops_a_part_waits_until_it_has_tidied_up(pytester):
    """By any signal, and in the background of a shell, where Ctrl+C is ignored."""
    pytester.makefile("", Makefile="test-fast:\n\t@trap 'sleep 1; touch tidied; exit 1' INT; touch begun; sleep 60")
    pytester.makepyfile(
        stopped=f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(parts.__file__).parent)!r})
import parts
parts.ROOT = Path({str(pytester.path)!r})
parts.run_make("test-fast", {{"PATH": {os.environ["PATH"]!r}}})
"""
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        for mark in ("begun", "tidied"):
            Path(pytester.path, mark).unlink(missing_ok=True)
        ignores = ["env", "--ignore-signal=INT"]
        process = subprocess.Popen([*ignores, sys.executable, "stopped.py"], start_new_session=True)
        wait_until(Path(pytester.path, "begun").exists, "the part runs")
        process.send_signal(number)
        assert process.wait(patience()) == 128 + number
        assert Path(pytester.path, "tidied").exists()


def test_a_thread_that_ends_with_an_exception_fails_its_test(suite, pytestconfig):
    settings = [f"-W{line}" for line in pytestconfig.getini("filterwarnings") if line.startswith("error")]
    found = suite(
        """
def test_a_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
""",
        *settings,
    )
    found.assert_outcomes(failed=1)


def test_contributors_read_the_minutes_of_every_part():
    def minutes(file):
        table = re.findall(r"^\| `make (\S+)` \|(.*)", Path(parts.ROOT, file).read_text(), re.MULTILINE)
        return {part: re.findall(r" (\d+:\d\d) \|", row) for part, row in table}

    assert set(minutes("CONTRIBUTING.md")) == set(parts.PARTS)
    assert minutes("CONTRIBUTING.md") == minutes("docs/testing.md")
    assert all(len(found) == 1 for found in minutes("docs/testing.md").values())
