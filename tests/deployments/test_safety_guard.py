"""The guard between finished pictures and the client, with judges made here."""

import numpy as np
import pytest
from picture_servers import file_of, noise, ready

from deployments.servers.safety import OutputGuard, log_failure
from deployments.servers.upscaling import Server as UpscalingServer
from models.engines.upscaling_fake import Engine as FakeUpscaling
from models.errors import ContentPolicyViolation
from models.safety.judges import OutputJudges
from models.safety.policy import OutputPolicy, Verdict
from models.tasks.upscaling import UpscaleRequest

WORDS = "private words"
ON = OutputPolicy(enabled=True)
HARMLESS, EXPLICIT = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)


class WhiteJudge:
    """Withholds what is white."""

    name = "white"

    def judge(self, pixels: np.ndarray) -> Verdict:
        if pixels.size == 0:
            raise RuntimeError(WORDS)
        return Verdict(pixels.min() == 255, self.name, {"whiteness": 0.987})


async def guard_of(*judges) -> OutputGuard:
    guard = OutputGuard(ON, OutputJudges(lambda: judges, log_failure))
    await guard.load()
    return guard


async def test_a_guard_that_is_off_loads_and_asks_nobody(monkeypatch):
    monkeypatch.setattr("deployments.servers.safety.load_judges", lambda *_: pytest.fail("loaded"))
    guard = OutputGuard(OutputPolicy())
    await guard.load()
    await guard.check([EXPLICIT])


async def test_pictures_that_pass(caplog):
    guard = await guard_of(WhiteJudge())
    await guard.check([HARMLESS, HARMLESS])
    await guard.check([])
    assert not caplog.records


async def test_one_of_several_is_enough(caplog):
    guard = await guard_of(WhiteJudge())
    with pytest.raises(ContentPolicyViolation, match="withheld by this cluster's content policy") as caught:
        await guard.check([HARMLESS, EXPLICIT, HARMLESS])
    assert caught.value.code == "content_policy_violation"
    assert "0.98" not in str(caught.value)
    assert "0.987" in caplog.text  # the operator is told


async def test_a_judge_that_fails_withholds_and_is_logged(caplog):
    guard = await guard_of(WhiteJudge())
    with pytest.raises(ContentPolicyViolation, match="the check failed"):
        await guard.check([np.zeros((0, 0, 3), np.uint8)])
    assert "RuntimeError" in caplog.text
    assert any(record.levelname == "ERROR" for record in caplog.records)
    assert WORDS not in caplog.text
    await guard.check([HARMLESS])


async def test_without_weights_everything_is_withheld(monkeypatch, caplog):
    def missing(*_):
        raise OSError("no index")

    monkeypatch.setattr("models.safety.judges.fetch_source", missing)
    guard = OutputGuard(ON)
    await guard.load()
    with pytest.raises(ContentPolicyViolation, match="the check failed"):
        await guard.check([HARMLESS])
    assert "could not be loaded" in caplog.text


async def test_a_server_with_the_policy_on_answers_nothing_unjudged(monkeypatch):
    monkeypatch.setattr("deployments.servers.safety.load_judges", lambda *_: [WhiteJudge()])
    server = await ready(UpscalingServer, "realesr-animevideov3", FakeUpscaling(4), ON)
    assert (await server.upscale(UpscaleRequest(file_of(noise())))).width == 160
    with pytest.raises(ContentPolicyViolation):
        await server.upscale(UpscaleRequest(file_of(EXPLICIT)))
