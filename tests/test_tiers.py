"""The rules of the tests themselves: what a test of every commit may cost, and which tests those are."""

import pytest

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
