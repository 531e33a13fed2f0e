"""States read from an answer that Serve really gave, and from the turns it takes from there.

Single rules, on made-up answers, are in test_states.py.
"""

import copy

import pytest

from deployments.board import COLD_START, FAILURE, PROGRESS, MemoryBoard
from deployments.router.discovery import LOAD_TIME_GUESS_S, cold_start, model_states, stale
from deployments.router.dispatch import ModelState, State
from deployments.router.growth import Scale
from deployments.servers.causes import DIED
from models.catalog import load_catalog

CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
DEPLOYED, CHAT_STARTED, EMBEDDINGS_STARTED = 1795245657.2088954, 1795245660.143541, 1795245659.7774057


def entry(name, variant, *, replica_id, pid, started) -> dict:
    """What of a model's application in Serve's answer is read, as Serve 2.60 wrote it."""
    return {
        "name": name,
        "route_prefix": None,
        "docs_path": None,
        "status": "RUNNING",
        "message": "",
        "last_deployed_time_s": DEPLOYED,
        "deployed_app_config": {
            "name": name,
            "route_prefix": None,
            "import_path": "deployments.model:build",
            "deployments": [{"name": "model", "max_ongoing_requests": 64}],
            "args": {"model": name, "variant": variant, "release": "1"},
            "logging_config": {"encoding": "JSON", "enable_access_log": False},
        },
        "source": "declarative",
        "deployments": {
            "model": {
                "name": "model",
                "status": "HEALTHY",
                "status_trigger": "CONFIG_UPDATE_COMPLETED",
                "message": "",
                "deployment_config": {
                    "name": "model",
                    "max_ongoing_requests": 64,
                    "user_config": None,
                    "autoscaling_config": {"min_replicas": 1, "initial_replicas": None, "max_replicas": 2},
                    "graceful_shutdown_timeout_s": 60.0,
                },
                "target_num_replicas": 1,
                "required_resources": {"CPU": 0.25, "GPU": 0, "memory": 536870912},
                "replicas": [
                    {
                        "node_id": "83a07a1bd64cecb5ad0dfa9028504cbcb77d2735ae9a629865a10aa6",
                        "node_ip": "192.0.2.2",
                        "actor_name": f"SERVE_REPLICA::{name}#model#{replica_id}",
                        "log_file_path": f"/serve/replica_{name}_model_{replica_id}.log",
                        "replica_id": replica_id,
                        "state": "RUNNING",
                        "pid": pid,
                        "start_time_s": started,
                    }
                ],
                "recent_dead_replicas": [],
            }
        },
    }


ANSWER = {
    CHAT: entry(CHAT, "vllm-cpu", replica_id="oiwszkqf", pid=25021, started=CHAT_STARTED),
    EMBEDDINGS: entry(EMBEDDINGS, "onnx", replica_id="q28iwyqt", pid=25016, started=EMBEDDINGS_STARTED),
    "router": {
        "name": "router",
        "route_prefix": "/",
        "status": "RUNNING",
        "last_deployed_time_s": DEPLOYED,
        "deployed_app_config": {"import_path": "deployments.router.ingress:build", "args": {"release": "1"}},
        "deployments": {"router": {"deployment_config": {"num_replicas": 1}, "replicas": []}},
    },
}


class Cluster:
    """Serve's answer and the board, both to be changed by a test."""

    def __init__(self):
        self.answer = copy.deepcopy(ANSWER)
        self.board = MemoryBoard()
        self.before: dict[str, ModelState] = {}
        self.now = DEPLOYED + 10

    @property
    def chat(self) -> dict:
        return self.answer[CHAT]

    @property
    def deployment(self) -> dict:
        return self.chat["deployments"]["model"]

    def replicas(self, *states: str, pid: int | None = 25021) -> None:
        """The replicas of the chat model: r0, r1, ... in these states, each started a second after the other."""
        like = ANSWER[CHAT]["deployments"]["model"]["replicas"][0]
        self.deployment["replicas"] = [
            {**like, "replica_id": f"r{number}", "state": state, "pid": pid, "start_time_s": DEPLOYED + number}
            for number, state in enumerate(states)
        ]

    def progress(self, replica: str = "r0", **fact) -> None:
        shown = {"phase": "load", "since": DEPLOYED + 2, "variant": "vllm-cpu", "release": "1"}
        self.board.put(PROGRESS.format(app=CHAT, replica=replica), shown | fact)

    def failure(self, at: float = DEPLOYED + 5, cause: str = "It broke.") -> None:
        who = {"variant": "vllm-cpu", "release": "1"}
        self.board.put(FAILURE.format(app=CHAT), {"cause": cause, "remedy": "Mend it.", "at": at, **who})

    def started_in(self, **seconds: float) -> None:
        self.board.put(COLD_START.format(app=CHAT, variant="vllm-cpu"), {"seconds": seconds})

    def states(self) -> dict[str, ModelState]:
        self.before = model_states(self.answer, load_catalog(), self.before, self.board.all(), self.now)
        return self.before

    def state(self) -> ModelState:
        return self.states()[CHAT]

    def clean(self) -> set[str]:
        """Remove what is stale, as the router does after it has looked. The keys."""
        gone = stale(self.answer, self.board.all())
        for key in gone:
            self.board.remove(key)
        return set(gone)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_the_answer_of_a_running_cluster_is_two_ready_models(cluster):
    states = cluster.states()
    assert set(states) == {CHAT, EMBEDDINGS}
    assert states[CHAT] == ModelState(
        State.READY, "vllm-cpu", since=DEPLOYED, replicas=1, release="1", wakes_on_request=False, scale=Scale(1, 2)
    )
    assert states[EMBEDDINGS].variant == "onnx"
    document = states[CHAT].document()
    scaling = {"wanted": 1, "most": 2}
    assert document == {"state": "ready", "variant": "vllm-cpu", "release": "1", "replicas": 1, "scaling": scaling}


TABLE = [
    # status of the application, lowest number of replicas, their states; state, replicas, draining
    ("RUNNING", 1, ["RUNNING"], State.READY, 1, 0),
    ("RUNNING", 1, ["RUNNING", "RUNNING", "STARTING"], State.READY, 2, 0),
    ("DEPLOYING", 1, ["UPDATING", "STARTING"], State.READY, 1, 0),
    ("DEPLOYING", 1, ["RUNNING", "STOPPING", "STOPPING"], State.READY, 1, 2),
    ("UNHEALTHY", 1, ["RUNNING", "STARTING"], State.READY, 1, 0),
    ("DEPLOY_FAILED", 1, ["RUNNING"], State.READY, 1, 0),
    ("DEPLOYING", 1, ["STARTING"], State.LOADING, 0, 0),
    ("DEPLOYING", 1, [], State.LOADING, 0, 0),
    ("DEPLOYING", 0, [], State.LOADING, 0, 0),
    ("UNHEALTHY", 1, [], State.LOADING, 0, 0),
    ("RUNNING", 1, [], State.LOADING, 0, 0),
    ("RUNNING", 1, ["STOPPING"], State.LOADING, 0, 1),
    ("RUNNING", None, [], State.LOADING, 0, 0),
    ("RUNNING", 0, ["STARTING"], State.LOADING, 0, 0),
    ("RUNNING", 0, [], State.SCALED_TO_ZERO, 0, 0),
    ("RUNNING", 0, ["STOPPING"], State.SCALED_TO_ZERO, 0, 1),
    ("DEPLOY_FAILED", 1, [], State.FAILED, 0, 0),
    ("DEPLOY_FAILED", 0, [], State.FAILED, 0, 0),
    ("DEPLOY_FAILED", 1, ["STOPPING"], State.FAILED, 0, 1),
    ("DELETING", 1, ["RUNNING", "STOPPING"], State.DRAINING, 1, 1),
    ("DELETING", 1, [], State.DRAINING, 0, 0),
]


@pytest.mark.parametrize(("status", "lowest", "replicas", "state", "running", "draining"), TABLE)
def test_the_table_of_states(*, cluster, status, lowest, replicas, state, running, draining):
    cluster.chat["status"] = status
    config = {"min_replicas": lowest} if lowest is not None else None
    cluster.deployment["deployment_config"]["autoscaling_config"] = config
    cluster.replicas(*replicas)
    found = cluster.states()[CHAT]
    assert (found.state, found.replicas, found.draining) == (state, running, draining)
    assert found.wakes_on_request is (lowest == 0)
    # What happens to one model says nothing of another.
    assert cluster.states()[EMBEDDINGS].state is State.READY


def test_a_start_told_from_the_wish_to_the_answer(cluster):
    cluster.chat["status"] = "DEPLOYING"
    cluster.started_in(**{"import": 12.0, "load": 28.0})
    told = []

    def look(now: float) -> None:
        cluster.now = DEPLOYED + now
        state = cluster.state()
        told.append((state.state, state.phase, state.fraction, state.retry_after_s))

    cluster.replicas()
    look(0)
    cluster.replicas("STARTING", pid=None)
    look(1)
    cluster.replicas("STARTING")
    look(4)
    cluster.progress(phase="fetch", since=DEPLOYED + 5, fraction=0.4)
    look(10)
    cluster.progress(phase="load", since=DEPLOYED + 20)
    look(30)
    cluster.progress(phase="load", since=DEPLOYED + 20, done=True)
    cluster.replicas("RUNNING")
    cluster.chat["status"] = "RUNNING"
    look(42)
    assert told == [
        (State.LOADING, None, None, 40.0),
        (State.LOADING, "schedule", None, 39.0),
        (State.LOADING, "import", None, 36.0),
        (State.LOADING, "fetch", 0.4, 30.0),
        (State.LOADING, "load", None, 10.0),
        (State.READY, None, None, 10.0),
    ]


def test_of_several_replicas_the_first_tells_how_far_it_is(cluster):
    cluster.replicas("STARTING", "STARTING")
    cluster.deployment["replicas"].reverse()
    cluster.progress("r0", phase="warm_up")
    cluster.progress("r1", phase="fetch")
    assert cluster.state().phase == "warm_up"


def test_another_models_progress_is_not_this_ones(cluster):
    cluster.replicas("STARTING", pid=None)
    cluster.board.put(PROGRESS.format(app=EMBEDDINGS, replica="r0"), {"phase": "load", "since": DEPLOYED + 1})
    cluster.board.put(FAILURE.format(app=EMBEDDINGS), {"cause": "A.", "remedy": "B.", "at": DEPLOYED + 1})
    state = cluster.state()
    assert (state.phase, state.cause) == ("schedule", None)


def test_a_first_start_is_guessed_and_another_variants_time_is_not_taken(cluster):
    cluster.board.put(COLD_START.format(app=CHAT, variant="vllm-gpu"), {"seconds": {"load": 500.0}})
    cluster.replicas("STARTING")
    cluster.now = DEPLOYED
    assert cluster.state().retry_after_s == LOAD_TIME_GUESS_S
    assert cold_start(CHAT, "vllm-cpu", cluster.board.all()) == {}


def test_retry_after_falls_until_the_usual_time_and_then_says_that_it_is_late(cluster):
    cluster.chat["status"] = "DEPLOYING"
    cluster.replicas("STARTING")
    cluster.started_in(load=50.0)

    def told(after: float) -> float:
        cluster.now = DEPLOYED + after
        return cluster.state().retry_after_s

    falling = [told(after) for after in (0, 10, 30, 47)]
    assert falling == pytest.approx([50, 40, 20, 3])
    late = [told(after) for after in (50, 100, 300, 599, 5000)]
    assert late == pytest.approx([5, 10, 30, 59.9, 60])
    assert told(-5) == pytest.approx(50)  # the router's clock is behind


@pytest.mark.parametrize(("status", "state"), [("DEPLOYING", State.LOADING), ("DEPLOY_FAILED", State.FAILED)])
def test_a_start_that_broke_has_the_replicas_own_words(cluster, status, state):
    cluster.chat["status"] = status
    cluster.replicas()
    cluster.failure(cause="Its weights are not on its node.")
    document = cluster.state().document()
    assert document["state"] == state
    assert (document["cause"], document["remedy"]) == ("Its weights are not on its node.", "Mend it.")


def test_a_silent_death_is_told_by_its_last_phase(cluster):
    cluster.chat["status"] = "DEPLOYING"
    cluster.replicas("STOPPING", "STARTING")
    cluster.progress("dead-1", phase="fetch", since=DEPLOYED + 1)
    cluster.progress("dead-2", phase="load", since=DEPLOYED + 3)
    cluster.progress("r1", phase="import", since=DEPLOYED + 5)
    state = cluster.state()
    assert (state.state, state.phase) == (State.LOADING, "import")
    assert (state.cause, state.remedy) == ("Its process died in the phase load.", DIED)


def test_a_death_before_the_first_word_is_told_by_serve(cluster):
    cluster.chat["status"] = "DEPLOY_FAILED"
    cluster.replicas("RUNNING")
    cluster.chat["deployments"]["model"]["message"] = "The deployment failed to start 3 times. Error:\nActorDiedError()"
    state = cluster.state()
    assert (state.state, state.cause, state.remedy) == (State.READY, "Its process died in the phase import.", DIED)
    cluster.failure(cause="Its weights are not on its node.")
    assert cluster.state().cause == "Its weights are not on its node."


def test_what_a_replica_said_counts_more_than_that_one_died(cluster):
    cluster.replicas()
    cluster.chat["status"] = "DEPLOY_FAILED"
    cluster.progress("dead")
    cluster.failure()
    assert cluster.state().cause == "It broke."


def test_a_failure_that_nobody_explained_still_has_a_remedy(cluster):
    cluster.chat["status"] = "DEPLOY_FAILED"
    cluster.replicas()
    state = cluster.state()
    assert (state.state, state.cause, state.remedy) == (State.FAILED, "It could not be started.", DIED)


def test_an_upgrade_that_fails_leaves_the_old_version_serving_with_its_cause(cluster):
    assert cluster.state().state is State.READY
    cluster.chat["last_deployed_time_s"] = DEPLOYED + 100
    cluster.chat["deployed_app_config"]["args"]["release"] = "2"
    built, cluster.chat["deployments"] = cluster.chat["deployments"], {}
    cluster.chat["status"] = "DEPLOYING"
    building = cluster.state()
    assert (building.state, building.replicas, building.release) == (State.READY, 1, "1")
    cluster.chat["deployments"] = built
    cluster.replicas("UPDATING", "STARTING")
    cluster.progress("r1", since=DEPLOYED + 105)
    starting = cluster.state()
    assert (starting.state, starting.cause) == (State.READY, None)
    cluster.replicas("RUNNING")
    cluster.chat["status"] = "DEPLOY_FAILED"
    cluster.board.remove(PROGRESS.format(app=CHAT, replica="r1"))
    cluster.failure(at=DEPLOYED + 110)
    failed = cluster.state()
    assert (failed.state, failed.cause) == (State.READY, "It broke.")
    assert failed.document()["remedy"] == "Mend it."


@pytest.mark.parametrize("args", [None, {}, {"model": "gone"}, {"model": CHAT, "variant": "gone"}, {"new": 1}])
def test_arguments_that_this_version_does_not_know_hide_no_model(cluster, args):
    cluster.chat["deployed_app_config"] = {"args": args} if args is not None else None
    state = cluster.state()
    assert (state.state, state.variant, state.release) == (State.READY, None, None)


def test_a_model_without_a_named_variant_has_its_default(cluster):
    cluster.chat["deployed_app_config"]["args"] = {"model": CHAT}
    assert cluster.state().variant == load_catalog()[CHAT].default_variant


def test_an_application_that_is_gone_has_no_state_any_more(cluster):
    cluster.states()
    del cluster.answer[CHAT]
    assert set(cluster.states()) == {EMBEDDINGS}


def test_nothing_is_stale_while_something_starts(cluster):
    cluster.replicas("RUNNING", "STARTING")
    cluster.progress("r0", done=True)
    cluster.progress("dead")
    cluster.failure(at=DEPLOYED - 5)
    assert cluster.clean() == set()


def test_what_is_done_or_old_is_stale_when_all_is_settled_and_the_living_are_not(cluster):
    cluster.replicas("RUNNING")
    cluster.started_in(load=1.0)
    cluster.progress("r0", since=DEPLOYED - 50, done=True)
    cluster.progress("gone", done=True)
    cluster.progress("old", since=DEPLOYED - 50)
    cluster.failure(at=DEPLOYED - 40)
    old = {PROGRESS.format(app=CHAT, replica=name) for name in ("gone", "old")} | {FAILURE.format(app=CHAT)}
    assert cluster.clean() == old
    kept = {COLD_START.format(app=CHAT, variant="vllm-cpu"), PROGRESS.format(app=CHAT, replica="r0")}
    assert set(cluster.board.all()) == kept


def test_the_variant_is_that_of_the_replicas_which_take_requests(cluster):
    """In an upgrade from vllm-cpu to transformers beside the old version, and in one that fails."""
    args = cluster.chat["deployed_app_config"]["args"]
    told = []

    def look(*replicas):
        cluster.replicas(*replicas)
        cluster.clean()
        state = cluster.state()
        told.append((state.variant, state.release))

    cluster.progress("r0", since=DEPLOYED - 500, done=True)
    look("RUNNING")
    args |= {"variant": "transformers", "release": "2"}
    cluster.chat["status"] = "DEPLOYING"
    deployment = cluster.chat["deployments"].pop("model")
    cluster.clean()  # while Serve builds the new version it tells of no replica
    cluster.chat["deployments"]["model"] = deployment
    cluster.progress("r1", variant="transformers", release="2")
    look("RUNNING", "STARTING")
    cluster.progress("r1", variant="transformers", release="2", done=True)
    look("RUNNING", "RUNNING")
    look("STOPPING", "RUNNING")
    cluster.chat["status"] = "DEPLOY_FAILED"
    look("RUNNING")
    old, new = ("vllm-cpu", "1"), ("transformers", "2")
    assert told == [old, old, new, new, old]


def test_a_replica_that_has_said_nothing_runs_what_was_asked_for(cluster):
    cluster.replicas("RUNNING", "RUNNING")
    cluster.progress("r0", variant="transformers", release="0", done=True)
    assert cluster.state().variant == "vllm-cpu"


def test_the_variant_that_is_chosen_elsewhere_is_told_by_the_replica(cluster):
    cluster.chat["deployed_app_config"]["args"]["variant"] = "auto"
    cluster.replicas("STARTING")
    assert cluster.state().variant is None
    cluster.replicas("RUNNING")
    cluster.progress("r0", done=True)
    assert cluster.state().variant == "vllm-cpu"


def test_a_variant_beside_its_model_is_found_and_comes_after_it(cluster):
    other = f"{EMBEDDINGS}@torch"
    beside = entry(other, None, replica_id="r9", pid=1, started=EMBEDDINGS_STARTED)
    unknown = {"all-minilm-l6-v2@no": beside, "nobody@onnx": beside, "all-minilm-l6-v2@auto": beside}
    cluster.answer = {other: beside, **unknown, **cluster.answer}
    states = cluster.states()
    assert list(states) == [CHAT, EMBEDDINGS, other]
    assert (states[other].state, states[other].variant) == (State.READY, "torch")


def test_the_cause_of_this_deployments_failure_is_not_stale(cluster):
    cluster.chat["status"] = "DEPLOY_FAILED"
    cluster.replicas()
    cluster.failure(at=DEPLOYED + 5)
    cluster.progress("dead", since=DEPLOYED + 6)
    assert cluster.clean() == set()


def test_all_but_the_start_times_of_a_model_that_is_gone_is_stale(cluster):
    cluster.progress("r0")
    cluster.failure()
    cluster.started_in(load=1.0)
    del cluster.answer[CHAT]
    assert cluster.clean() == {PROGRESS.format(app=CHAT, replica="r0"), FAILURE.format(app=CHAT)}
