"""The start of a whole replica, and each cause by its words. Single phases are in test_replica_calls.py."""

import asyncio
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from patience import until

from deployments.board import COLD_START, FAILURE, PROGRESS, MemoryBoard
from deployments.metering import MemoryMeter
from deployments.servers import engine as engine_module
from deployments.servers.causes import DIED, KNOWN, explain
from deployments.servers.chat import Server as ChatServer
from deployments.servers.cold_start import STEP, ColdStart
from deployments.settings import ModelArgs
from models.engines.chat_fake import Engine as FakeChat
from models.errors import EngineFailed, InvalidRequest
from models.weights import WeightsDamaged, WeightsMissing

CHAT, VARIANT = "smollm2-135m-instruct", "vllm-cpu"
PROGRESS_KEY = PROGRESS.format(app=CHAT, replica="rep")
FAILURE_KEY = FAILURE.format(app=CHAT)
COLD_START_KEY = COLD_START.format(app=CHAT, variant=VARIANT)
PATH = "/srv/models/secret.bin"


class Written(MemoryBoard):
    """A board that also keeps all that was ever put on it, in order."""

    def __init__(self):
        super().__init__()
        self.history: list[tuple[str, dict]] = []

    def put(self, key, fact):
        super().put(key, fact)
        self.history.append((key, self.facts[key]))

    def told(self, name: str) -> list:
        return [fact[name] for key, fact in self.history if key == PROGRESS_KEY and name in fact]


@pytest.fixture
def board() -> Written:
    return Written()


@pytest.fixture
def args() -> ModelArgs:
    return ModelArgs(model=CHAT, release="3")


@pytest.fixture
def start(args, board) -> ColdStart:
    return ColdStart(args, "rep", board)


@pytest.fixture
def clock(monkeypatch):
    """Stands still three seconds after this process began, unless a test moves it."""
    made = SimpleNamespace(now=psutil.Process().create_time() + 3)
    monkeypatch.setattr("deployments.servers.cold_start.time", SimpleNamespace(time=lambda: made.now))
    return made


class Server(ChatServer):
    """The real start of a replica around the fake engine."""

    def import_engine(self):
        return FakeChat


@pytest.fixture
def replica(monkeypatch, args, board):
    """Starts a replica where neither Ray nor weights are; `fetch` is what gets the weights."""

    async def make(fetch=lambda spec, variant, report, fraction: Path(), server=Server):
        replica_id = SimpleNamespace(replica_id=SimpleNamespace(unique_id="rep"))
        monkeypatch.setattr(engine_module.serve, "get_replica_context", lambda: replica_id)
        monkeypatch.setattr(engine_module, "RayBoard", lambda: board)
        monkeypatch.setattr(engine_module, "ray_meter", lambda enabled: MemoryMeter())
        monkeypatch.setattr(engine_module, "start_tracing", lambda service: None)
        monkeypatch.setattr(engine_module.weights, "fetch", fetch)
        made = server.__new__(server)
        await made.__init__(args)
        return made

    return make


async def test_a_start_goes_through_its_phases_in_order_and_writes_their_times(replica, board, clock):
    def fetch(spec, variant, report, fraction):
        for done in (0.25, 0.5, 1.0):
            fraction(done)
        clock.now += 5
        return Path()

    server = await replica(fetch)
    assert isinstance(server.engine, FakeChat)
    assert list(dict.fromkeys(board.told("phase"))) == ["import", "fetch", "load", "warm_up"]
    assert board.told("fraction") == [0.25, 0.5, 1.0]
    written = board.facts[COLD_START_KEY]
    # The import began with the process, so the phases are the whole of the start.
    assert list(written["seconds"].items()) == [("import", 3), ("fetch", 5), ("load", 0), ("warm_up", 0)]
    assert (written["variant"], written["release"], written["replica"]) == (VARIANT, "3", "rep")
    assert written["process_started"] == psutil.Process().create_time()
    assert board.facts[PROGRESS_KEY]["done"]
    assert FAILURE_KEY not in board.facts


@pytest.mark.parametrize(
    ("broken", "phase"), [("import_engine", "import"), ("fetch", "fetch"), ("load", "load"), ("warm_up", "warm_up")]
)
async def test_a_start_that_breaks_says_in_which_phase(*, replica, board, clock, broken, phase):
    def breaks(*args):
        raise ValueError(PATH)

    class Breaks(Server):
        pass

    keywords = {"fetch": breaks} if broken == "fetch" else {}
    if broken != "fetch":
        setattr(Breaks, broken, breaks)
    with pytest.raises(ValueError, match="secret"):
        await replica(server=Breaks, **keywords)
    said = board.facts[FAILURE_KEY]
    assert said["cause"] == f"It failed in the phase {phase} (ValueError)."
    assert (said["variant"], said["release"]) == (VARIANT, "3")
    assert said["at"] == clock.now
    assert PROGRESS_KEY not in board.facts
    assert COLD_START_KEY not in board.facts
    assert PATH not in str(board.history)


async def test_a_warm_up_that_is_refused_is_told_in_the_models_words(replica, board):
    class Refuses(Server):
        async def warm_up(self):
            raise EngineFailed("The model broke.")

    with pytest.raises(EngineFailed):
        await replica(server=Refuses)
    assert board.facts[FAILURE_KEY]["cause"] == "Its first request failed: The model broke."


async def test_a_good_start_takes_an_old_failure_away(replica, board):
    board.put(FAILURE_KEY, {"cause": "It broke.", "remedy": "Mend it.", "at": 1.0})
    await replica()
    assert FAILURE_KEY not in board.facts


async def test_a_start_that_is_cancelled_is_no_failure(replica, board):
    class Long(Server):
        async def load(self, engine, folder):
            await asyncio.Event().wait()

    starting = asyncio.create_task(replica(server=Long))
    await until(lambda: board.facts.get(PROGRESS_KEY, {}).get("phase") == "load", "the phase load")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert FAILURE_KEY not in board.facts
    # What is left says where it was, for whoever asks why it is gone.
    assert board.facts[PROGRESS_KEY]["phase"] == "load"


def test_only_the_first_phase_began_with_the_process(start, board, clock):
    with start.phase("import"):
        clock.now += 1
    with start.phase("load"):
        pass
    assert board.told("since") == [start.process_started, clock.now]


def test_a_fraction_is_told_in_steps_and_never_goes_back(start, board):
    with start.phase("fetch"):
        for number in range(1001):
            start.fraction(number / 1000)
        start.fraction(0.2)
    told = board.told("fraction")
    assert len(told) <= 1 / STEP
    assert told == sorted(told)
    assert told[-1] >= 0.99


def test_a_new_phase_counts_anew(start, board):
    for name in ("fetch", "load"):
        with start.phase(name):
            start.fraction(0.5)
    assert board.told("fraction") == [0.5, 0.5]


def test_the_log_has_the_whole_error_for_operators_and_the_times_of_a_good_start(start, caplog):
    caplog.set_level(logging.INFO, "ray.serve")
    with pytest.raises(ValueError, match="secret"), start.phase("load"):
        raise ValueError(PATH)
    (line,) = caplog.records
    assert line.levelname == "ERROR"
    assert line.exc_info[1].args == (PATH,)
    caplog.clear()
    with start.phase("load"):
        pass
    start.ready()
    assert re.fullmatch(rf"{CHAT}@{VARIANT} is ready: load \d+\.\d s", caplog.records[0].getMessage())


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (WeightsMissing(PATH), "Its weights are not on its node.", "medley fetch"),
        (WeightsDamaged(PATH), "A file of its weights is not what its checksum says.", "medley fetch --verify"),
        (MemoryError(PATH), "There was not enough memory.", "needs.memory_gib"),
        (ImportError(PATH, name="vllm", path=PATH), "A library it needs is missing or broken.", "lock"),
        (ModuleNotFoundError(PATH), "A library it needs is missing or broken.", "lock"),
        (OutOfMemoryError(PATH), "There was not enough GPU memory.", "smaller variant"),
        (InvalidRequest("Bad."), "Its first request failed: Bad.", "medley logs"),
        (FileNotFoundError(2, "No such file", PATH), "It failed in the phase load (FileNotFoundError).", "medley logs"),
        (RuntimeError(PATH), "It failed in the phase load (RuntimeError).", "medley logs"),
    ],
)
def test_every_error_has_its_cause_and_a_remedy_that_fits(error, cause, remedy):
    said, do = explain(error, "load")
    assert said == cause
    assert remedy in do
    assert PATH not in said + do


def test_no_sentence_for_operators_names_a_path():
    assert [text for _, *texts in KNOWN for text in (*texts, DIED) if "/" in text] == []
