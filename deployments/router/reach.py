"""Up to which size of request a model keeps its promise on this machine, for a request that is alone.

Pure computation, on what a replica told of its pace (PACE in deployments/board.py) and on the promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

from models.slo import Targets

# Which of a size's figures a limit is about. A replica does not tell the pace of sound.
FIGURES = {"time_to_first_token_s": 1, "time_to_first_audio_s": 1, "time_per_output_token_s": 2, "duration_s": 3}


@dataclass(frozen=True, slots=True)
class Reach:
    """
    Attributes:
        unit: in which sizes are counted, such as "tokens of prompt".
        smallest, largest: the sizes that the model takes.
        up_to: the largest size for which the promise is kept; None if it is not kept even for the smallest.
        limit, limit_s: what a larger request breaks first, as slo.yaml has it; None if nothing is too large.
    """

    unit: str
    smallest: float
    largest: float
    up_to: float | None
    limit: str | None = None
    limit_s: float | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From its form in /readyz."""
        return cls(*(document.get(name) for name in cls.__slots__))  # type: ignore[arg-type]

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def limited(self) -> bool:
        """Whether a request that the model takes can be too large for the promise."""
        return self.limit is not None

    def __str__(self) -> str:
        """A sentence without its subject, the model."""
        if self.limit is None or self.limit_s is None:
            return f"keeps its promise alone up to {counted(self.largest, self.unit)}, the most that it takes"
        broken = f"{self.limit.removesuffix('_s').replace('_', ' ')} {self.limit_s:g} s"
        if self.up_to is None:
            return f"does not keep its promise even alone with {counted(self.smallest, self.unit)}: {broken}"
        return f"keeps its promise alone up to {counted(self.up_to, self.unit)} (of {number(self.largest)}): {broken}"


def reach(pace: Mapping[str, Any] | None, targets: Targets | None) -> Reach | None:
    """None if nothing is promised, or the pace is not known.

    Args:
        pace: the fact PACE of the board. What lies between two sizes is taken to grow evenly.
        targets: the promise. A stream is asked about: only to those the beginning is promised.
    """
    sizes: Sequence[Sequence[float]] = pace["sizes"] if pace else ()
    if pace is None or targets is None or not sizes:
        return None
    in_whole_ones = all(float(one[0]).is_integer() for one in sizes)
    smallest, largest = (int(size) if in_whole_ones else size for size in (sizes[0][0], sizes[-1][0]))
    up_to, broken = math.inf, None
    for limit, figure in FIGURES.items():
        promised: float | None = getattr(targets, limit)
        kept = math.inf if promised is None else kept_up_to([(one[0], one[figure]) for one in sizes], promised)
        if kept < up_to:
            up_to, broken = kept, limit
    if broken is None:
        return Reach(pace["unit"], smallest, largest, largest)
    rounded = math.floor(up_to) if in_whole_ones else math.floor(100 * up_to) / 100
    kept = None if up_to < smallest else rounded
    return Reach(pace["unit"], smallest, largest, kept, broken, getattr(targets, broken))


def kept_up_to(points: Sequence[tuple[float, float]], limit: float) -> float:
    """The size at which seconds that grow with it pass a limit: 0 if all do, infinite if none does."""
    if points[0][1] > limit:
        return 0.0
    for (size, seconds), (larger, more) in pairwise(points):
        if more > limit:
            return size + (larger - size) * (limit - seconds) / (more - seconds)
    return math.inf


def counted(size: float, unit: str) -> str:
    """Such as `310 tokens of prompt` and `1 text of 64 tokens`."""
    what, _, rest = unit.partition(" ")
    return f"{number(size)} {what.removesuffix('s') if size == 1 else what} {rest}".rstrip()


def number(size: float) -> str:
    return f"{size:.0f}" if float(size).is_integer() else f"{size:g}"
