"""Admission where several things are true at once: several promises, clients that come again, replicas, failures."""

from contextlib import ExitStack

import pytest

from deployments.router.admission import Admission, AdmissionRequest
from deployments.router.record import RequestRecord
from models.catalog import load_catalog
from models.errors import TooBusy
from models.slo import Targets
from models.tasks.usage import COMPLETION_TOKENS, PROMPT_TOKENS, Usage

CHAT = load_catalog()["smollm2-135m-instruct"]
FIRST, TOKEN, WHOLE = "time_to_first_token_s", "time_per_output_token_s", "duration_s"


def taught(**slopes) -> Admission:
    """A model of which each promise is one second, and each figure grows by so much with each request."""
    made = Admission({CHAT.id: Targets(**dict.fromkeys(slopes, 1.0), good=0.99, availability=0.999)})
    lines = {FIRST: "first_s", TOKEN: "token_s", WHOLE: "duration_s"}
    for name, slope in slopes.items():
        for load in [*range(1, 21)] * 5:
            getattr(made.load(CHAT.id).predictor, lines[name]).learn(load, slope * load)
    return made


@pytest.fixture
def let_in():
    """Lets a request in, for as long as the test lasts."""
    with ExitStack() as inside:
        yield lambda made, asked=AdmissionRequest(), replicas=1: inside.enter_context(  # noqa: B008  frozen
            made.admit(CHAT, replicas, asked, RequestRecord("test"))
        )


@pytest.mark.parametrize("strict", [FIRST, TOKEN, WHOLE])
def test_the_strictest_promise_decides(strict):
    made = taught(**({FIRST: 0.01, TOKEN: 0.01, WHOLE: 0.01} | {strict: 0.2}))
    assert made.limit(CHAT.id, 1) == pytest.approx(5, rel=0.1)


def test_a_client_that_has_come_and_gone_often_has_no_more_than_is_inside(let_in):
    made = taught(**{FIRST: 0.1})
    for _ in range(50):
        with made.admit(CHAT, 1, AdmissionRequest(client="often"), RequestRecord("test")):
            pass
    assert not made.load(CHAT.id).of_client
    for _ in range(7):
        let_in(made, AdmissionRequest(client="other"))
    let_in(made, AdmissionRequest(client="often"))  # its first, and it shares with one: half of ten


def test_a_deadline_is_held_against_the_load_of_one_replica(let_in):
    made = taught(**{TOKEN: 0.01})
    for _ in range(4):
        let_in(made, replicas=4)
    # The fifth on four replicas: 0.0125 s a token. On one it would be 0.05 s.
    let_in(made, AdmissionRequest(deadline_s=2.0, tokens=101), replicas=4)
    with pytest.raises(TooBusy, match="deadline"):
        made.check(CHAT.id, 1, AdmissionRequest(deadline_s=2.0, tokens=101))


@pytest.mark.parametrize(("code", "learnt"), [("engine_failed", 0), ("deadline_exceeded", 0), (None, 1)])
def test_what_ended_in_an_error_teaches_nothing(code, learnt):
    """It may have been quick, and would make the model look so."""
    made, record = taught(), RequestRecord("test", model=CHAT.id, task="chat", stream=True, code=code)
    with made.admit(CHAT, 1, AdmissionRequest(), record):
        call = record.call(CHAT, "chat")
        call.first, call.last = call.called, call.called
        call.engine_s, call.usage = 0.0, Usage({PROMPT_TOKENS: 3, COMPLETION_TOKENS: 5})
    learnt_of = made.load(CHAT.id).predictor
    assert {learnt_of.busy_s.seen, learnt_of.first_s.seen, learnt_of.token_s.seen, learnt_of.tokens.seen} == {learnt}
