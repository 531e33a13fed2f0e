"""A process that computes lets others go first, but goes on where they never pause."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import wait_until

from deployments.servers import idling
from deployments.servers.idling import LOOK_S, NICE_S, Idling, let_process_idle, may_come_back

SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10_000))"
PROBE = "import os\nfrom deployments.servers.idling import may_come_back\nos.setuid(65534)\nprint(may_come_back())"


@pytest.fixture
def classes(monkeypatch):
    """The class of each thread, by its number, instead of Linux's."""
    found: dict[int, int] = {}
    monkeypatch.setattr(os, "sched_getscheduler", lambda thread: found.get(thread, os.SCHED_OTHER))
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread, policy, _: found.update({thread: policy}))
    return found


class Process:
    """A process with these threads in /proc, and what it is told by one that looks at it every LOOK_S."""

    def __init__(self, folder, *threads: int):
        self.folder, self.now = folder, 100.0
        self.times = {thread: [2_000_000_000, 0, 0] for thread in threads}
        self.idling = Idling(folder)

    def goes_on(self, thread: int, ran_s: float = 0.0, waited_s: float = 0.0, turns: int = 1, state: str = "R"):
        times = self.times[thread]
        times[:] = [times[0] + round(ran_s * 1e9), times[1] + round(waited_s * 1e9), times[2] + turns]
        (self.folder / str(thread)).mkdir(exist_ok=True)
        (self.folder / str(thread) / "stat").write_text(f"{thread} (a) S 1 (b)) {state} 1 2 3")
        (self.folder / str(thread) / "schedstat").write_text(" ".join(map(str, times)) + "\n")

    def looked_at(self, after_s: float = LOOK_S) -> bool:
        self.now += after_s
        return self.idling.look(self.now)


def test_a_process_that_gets_on_stays_behind_everybody_else(tmp_path, classes):
    process = Process(tmp_path, 7, 8)
    for _ in range(100):
        process.goes_on(7, ran_s=LOOK_S / 2, waited_s=LOOK_S / 2, turns=9)
        process.goes_on(8, turns=0, state="S")  # it sleeps
        assert process.looked_at()
        assert classes == {7: os.SCHED_IDLE, 8: os.SCHED_IDLE}


@pytest.mark.parametrize(
    "stands_still",
    [{"turns": 0}, {"ran_s": 0.001, "waited_s": 0.9 * LOOK_S}, {"ran_s": 0.001, "waited_s": 9 * LOOK_S}],
)
def test_one_that_mostly_waits_is_only_nice_for_some_seconds(tmp_path, classes, stands_still):
    process = Process(tmp_path, 7, 8)
    looks = []
    while process.now < 200:
        process.goes_on(7, **stands_still)
        process.goes_on(8, ran_s=LOOK_S / 2)
        process.looked_at()
        looks.append((process.now, dict(classes)))
    idle, nice = dict.fromkeys((7, 8), os.SCHED_IDLE), dict.fromkeys((7, 8), os.SCHED_OTHER)
    assert [found for _, found in looks[:2]] == [idle, nice], "one look is enough to see it"
    tried = [now for now, found in looks if found == idle]
    assert len(tried) <= 8, "it is tried again and again"
    assert max(tried) >= 160 - LOOK_S, "it is not tried again"


def test_all_processes_come_back_at_the_same_moment(tmp_path, classes):
    ends = set()
    for number in (7, 8, 9):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = Process(folder, number)
        process.goes_on(number)
        process.looked_at(number * LOOK_S)
        process.goes_on(number, turns=0)
        process.looked_at()
        assert classes[number] == os.SCHED_OTHER
        while classes[number] == os.SCHED_OTHER:
            process.goes_on(number, turns=0)
            process.looked_at()
        ends.add(process.now // NICE_S)
    assert ends == {105.0 // NICE_S}


def test_threads_that_start_and_end_are_noted(tmp_path, classes):
    process = Process(tmp_path, 7, 8)
    process.goes_on(7)
    process.looked_at()
    shutil.rmtree(tmp_path / "7")
    process.goes_on(8, turns=0)
    found = set()
    for _ in range(round(2 * NICE_S / LOOK_S)):
        process.looked_at()
        found.add(classes.get(8))
    assert classes[7] == os.SCHED_IDLE
    assert found == {None, os.SCHED_IDLE, os.SCHED_OTHER}


def test_a_thread_that_never_computed_is_not_looked_at(tmp_path, classes):
    process = Process(tmp_path, 7)
    process.times[7] = [1000, 0, 0]
    for _ in range(3):
        process.goes_on(7, turns=0)
        process.looked_at()
    assert classes == {7: os.SCHED_IDLE}


def test_nobody_looks_at_a_process_that_has_ended(tmp_path, classes):
    assert not Idling(tmp_path / "gone").look(1.0)
    assert classes == {}


def test_who_may_not_come_back_does_not_go(monkeypatch):
    def refuse(thread, policy, _):
        if policy == os.SCHED_OTHER:
            raise PermissionError

    monkeypatch.setattr(os, "sched_getscheduler", lambda thread: -1)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with spinning() as process:
        let_process_idle(process.pid)
        monkeypatch.undo()
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 10
        assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_nobody_without_privileges_may_come_back():
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@contextmanager
def spinning() -> Iterator[subprocess.Popen]:
    """A process that takes all that it gets of one core."""
    core = min(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, [{core}])\n{SPIN}"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_on_linux_one_that_others_leave_no_core_gets_a_part_of_one(monkeypatch):
    if not may_come_back():
        pytest.skip("threads may not leave SCHED_IDLE here")
    monkeypatch.setattr(idling, "NICE_S", 1.0)
    monkeypatch.setattr(idling, "COMPUTES_S", 0.1)
    with spinning() as engine:
        wait_until(lambda: idling.read(Path(f"/proc/{engine.pid}/task/{engine.pid}")).ran_ns > 1e8, "it has computed")
        let_process_idle(engine.pid)
        wait_until(lambda: os.sched_getscheduler(engine.pid) == os.SCHED_IDLE, "it lets others go first")
        with spinning():
            wait_until(lambda: os.sched_getscheduler(engine.pid) == os.SCHED_OTHER, "it stands still, and that is seen")
        wait_until(lambda: os.sched_getscheduler(engine.pid) == os.SCHED_IDLE, "it comes back")
