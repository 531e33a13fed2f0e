"""Explains why a replica could not start, for operators. Clients see it too, so it must not contain paths."""

from __future__ import annotations

from models.errors import ServingError
from models.weights import WeightsDamaged, WeightsMissing

WHOLE_STORY = "`medley logs --model` has the whole error."
DIED = "Most often memory: compare the model's `needs` with what the node has. " + WHOLE_STORY
GPU_MEMORY = "Give the model more of a GPU, or choose a smaller variant. " + WHOLE_STORY
# Type of error, cause, remedy. The first match counts.
KNOWN: tuple[tuple[type[BaseException], str, str], ...] = (
    (
        WeightsMissing,
        "Its weights are not on its node.",
        "Run `medley fetch` there, or give the node access to the hub.",
    ),
    (
        WeightsDamaged,
        "A file of its weights is not what its checksum says.",
        "Run `medley fetch --verify` there, which fetches it again. Then deploy again.",
    ),
    (MemoryError, "There was not enough memory.", "Free some, or raise `needs.memory_gib` in the catalog."),
    (ImportError, "A library it needs is missing or broken.", "Install the lock of its backend. " + WHOLE_STORY),
)


def explain(error: BaseException, phase: str) -> tuple[str, str]:
    """The cause and the remedy, one or two sentences each."""
    for kind, cause, remedy in KNOWN:
        if isinstance(error, kind):
            return cause, remedy
    if isinstance(error, ServingError):
        return f"Its first request failed: {error.message}", WHOLE_STORY
    if type(error).__name__ == "OutOfMemoryError":  # torch's own class; torch is not imported here
        return "There was not enough GPU memory.", GPU_MEMORY
    return f"It failed in the phase {phase} ({type(error).__name__}).", WHOLE_STORY
