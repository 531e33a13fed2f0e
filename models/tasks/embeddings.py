"""Embeddings: texts or token ids in, unit vectors out.

An engine works in two steps: `encode` (texts to token ids, cheap) and `embed` (a batch of token ids to vectors, the
model). So a server can pack the token lists of many requests into batches by length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from models.sources import Spec
from models.tasks.methods import Unary
from models.tasks.task import Settings, Task
from models.tasks.tokens import DETOKENIZE, TOKENIZE
from models.tasks.usage import PROMPT_TOKENS, Usage

if TYPE_CHECKING:
    import numpy as np


class Dimensions(Spec):
    """The sizes that an embedding can be cut to: truncated and renormalised, like OpenAI's `dimensions`."""

    native: int = Field(gt=0)
    smallest: int = Field(gt=0)


class EmbeddingSettings(Settings):
    dimensions: Dimensions

    def card(self) -> dict[str, Any]:
        return {"limits": {"dimensions": self.dimensions.model_dump()}}


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """
    Attributes:
        inputs: texts, or token ids that are used as they are (special tokens included).
        truncate: cut longer inputs to this many tokens. None: refuse inputs over the model's limit.
        dimensions: length of the vectors, at most the model's own, which None stands for.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    truncate: int | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """
    Attributes:
        vectors: little-endian float32, row after row, one row of `dimensions` per input; rows have length 1.
        prompt_tokens: tokens of all inputs, special tokens included.
    """

    vectors: bytes
    dimensions: int
    prompt_tokens: int

    @property
    def usage(self) -> Usage:
        return Usage({PROMPT_TOKENS: self.prompt_tokens})


# With this many inputs, the answer may be over half a megabyte and goes through the object store.
MANY_INPUTS = 128

EMBED = Unary("embed", EmbeddingRequest, EmbeddingResult, large=lambda request: len(request.inputs) >= MANY_INPUTS)


class EmbeddingEngine(Protocol):
    """A loaded embedding model. Methods block; `embed` is called from one thread at a time.

    Attributes:
        vocabulary_size: token ids are below this.
    """

    vocabulary_size: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, not truncated."""
        ...

    def truncate(self, tokens: list[int], length: int) -> list[int]:
        """The first tokens, at most `length`, with the end that the model expects of an input."""
        ...

    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors of a batch of token ids, all below `vocabulary_size`.

        Returns:
            float32, shape (len(batch), native dimensions), rows of length 1.
        """
        ...

    def detokenize(self, tokens: Sequence[int]) -> str: ...

    def without_special_tokens(self, tokens: list[int]) -> list[int]: ...

    def token_strings(self, tokens: Sequence[int]) -> list[str]: ...


TASK = Task(
    "embeddings",
    EmbeddingSettings,
    methods=(EMBED, TOKENIZE, DETOKENIZE),
    counts=(PROMPT_TOKENS,),
    sample=lambda settings: (EMBED(EmbeddingRequest(("warm-up",))),),
    batched=True,
)
