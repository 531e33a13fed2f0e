"""Judges finished pictures before they leave, where the content policy asks for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from deployments.failures import in_the_log
from deployments.servers.threads import engine_thread, run_in
from models.errors import ContentPolicyViolation
from models.safety.judges import OutputJudges, load_judges
from models.safety.policy import OutputPolicy

logger = logging.getLogger("ray.serve")

WITHHELD = (
    "The picture was made, and withheld by this cluster's content policy. Change the prompt or the picture you sent. "
    "If you think this is a mistake, tell the operator."
)
UNJUDGED = (
    "The picture was withheld: this cluster's content policy wants it checked, and the check failed. Tell the operator."
)


class OutputGuard:
    """Judges pictures in a separate thread. If the policy is off, it does nothing and loads nothing."""

    def __init__(self, policy: OutputPolicy, judges: OutputJudges | None = None):
        self.enabled = policy.enabled
        self._judges = judges or OutputJudges(partial(load_judges, policy, logger.info), log_failure)
        self._thread = engine_thread("judge")

    async def load(self) -> None:
        """Load the judges, so that the first picture does not wait for their weights. Never raises: until they can be
        loaded, all pictures are withheld."""
        if self.enabled:
            await run_in(self._thread, self._judges.load)

    async def check(self, pictures: Sequence[np.ndarray]) -> None:
        """
        Args:
            pictures: each uint8, shape (height, width, 3).

        Raises:
            ContentPolicyViolation: one of them may not leave, or could not be judged.
        """
        if not self.enabled:
            return
        for pixels in pictures:
            verdict = await run_in(self._thread, self._judges.judge, pixels)
            if verdict.withheld:
                logger.warning("a picture was withheld by %s: %s", verdict.judge or "nobody", verdict.scores)
                raise ContentPolicyViolation(WITHHELD if verdict.judge else UNJUDGED)


def log_failure(what: str, error: Exception) -> None:
    logger.error("content policy: %s, so pictures are withheld: %s", what, in_the_log(error))
