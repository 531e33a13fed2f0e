"""How much one request may ask a model to make at the same time.

A client may multiply: so many prompts, times so many answers to each. Queues count requests, so without a bound one
request takes the place of hundreds.
"""

from __future__ import annotations

from typing import Any

from models.errors import InvalidRequest
from models.tasks.images import ImageSettings

# Prompts times answers. A request holds its places until its last answer is whole, which may take minutes, so it must
# leave most of what a replica works on at once to others.
MOST_SEQUENCES = 16
# Pictures, counted as pictures of the model's own size and number of steps: ten of the highest quality, twice as large.
MOST_PICTURES = 40


def check_sequences(prompt: Any, n: int | None) -> None:
    """Raises InvalidRequest if a body asks for too many answers.

    Args:
        prompt: of a text completion, in any of its forms; of a chat, its messages as a text or nothing.
    """
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts, answers = len(prompt) if several else 1, n or 1
    if prompts * answers > MOST_SEQUENCES:
        raise InvalidRequest(
            f"{prompts} prompts times n = {answers} are {prompts * answers} answers; one request may ask for "
            f"{MOST_SEQUENCES}. Send several requests.",
            "prompt" if several else "n",
        )


def check_pictures(n: int, width: int | None, height: int | None, steps: int | None, settings: ImageSettings) -> None:
    """Raises InvalidRequest if so many pictures of this size and number of steps are too much for one request."""
    own = settings.width * settings.height * settings.steps
    asked = n * (width or settings.width) * (height or settings.height) * (steps or settings.steps)
    if n > 1 and asked > MOST_PICTURES * own:
        fit = max(1, MOST_PICTURES * own * n // asked)
        raise InvalidRequest(
            f"n: {n} pictures of this size and number of steps are as much work as {asked / own:.0f} of the model's "
            f"own; one request may ask for {MOST_PICTURES}. Ask for at most {fit} at a time.",
            "n",
        )
