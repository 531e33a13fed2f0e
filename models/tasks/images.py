"""Images: a prompt in, pictures out; or a picture changed by a prompt, repainted under a mask, varied, or guided by
another picture.

An engine works in steps, so that a server can denoise pictures of several requests in one batch, let new ones join
between two steps and drop a cancelled one: `start` (encode the prompt, draw the noise), `step` (one denoising step of
every picture in the batch), `finish` (latents to pixels). Encoded media stays outside: engines see arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from models.media.formats import Output, PictureFormat
from models.sources import Source
from models.tasks.methods import Stream, Unary, always
from models.tasks.task import Settings, Task
from models.tasks.usage import IMAGES, NOTHING, PROMPT_TOKENS, Usage

if TYPE_CHECKING:
    import numpy as np


class ImageSettings(Settings):
    """An image model's defaults and limits."""

    width: int = Field(gt=0, description="pixels that it was trained on, the default")
    height: int = Field(gt=0)
    smallest: int = Field(gt=0, description="of a side, in pixels")
    largest: int = Field(gt=0)
    multiple: int = Field(default=8, gt=0, description="sides are multiples of it")
    most_megapixels: float = Field(gt=0, description="of one picture")
    most_images: int = Field(default=10, gt=0, description="of one request")
    steps: int = Field(gt=0, description="the default")
    most_steps: int = Field(default=100, gt=0)
    guidance: float = Field(ge=0, description="the default; 1 and below is none, for models that have it built in")
    scheduler: str = Field(description="the default; a name in the engine's table of schedulers")
    strength: float = Field(default=0.75, gt=0, le=1, description="the default of edits")
    variation_strength: float = Field(default=0.6, gt=0, le=1, description="the default of variations")
    controls: dict[str, Source] = Field(default_factory=dict, description="kind -> ControlNet")
    adapters: dict[str, Source] = Field(default_factory=dict, description="name -> LoRA")

    def parts(self) -> Mapping[str, Mapping[str, Source]]:
        return {"control": self.controls, "adapter": self.adapters}

    def card(self) -> dict[str, Any]:
        return {"size": f"{self.width}x{self.height}"}

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """The size in pixels nearest to this one that the model can make: of the same shape, as far as limits allow.

        A size that the model can make is its own nearest.
        """
        most = self.most_megapixels * 1e6
        scale = min(1.0, self.largest / max(width, height), math.sqrt(most / (width * height)))
        scale = max(scale, self.smallest / min(width, height))
        sides = [self._nearest_side(side * scale, round) for side in (width, height)]
        if sides[0] * sides[1] > most:
            sides = [self._nearest_side(side * scale, math.floor) for side in (width, height)]
        while sides[0] * sides[1] > most and max(sides) - self.multiple >= self.smallest:
            sides[sides.index(max(sides))] -= self.multiple
        return sides[0], sides[1]

    def _nearest_side(self, length: float, rounded: Callable[[float], int]) -> int:
        smallest = math.ceil(self.smallest / self.multiple) * self.multiple
        largest = self.largest // self.multiple * self.multiple
        return min(largest, max(smallest, rounded(length / self.multiple) * self.multiple))


@dataclass(frozen=True, slots=True)
class Control:
    """A picture that guides the composition: edges, depth or a pose.

    Attributes:
        kind: one of the model's `controls`.
        image: an encoded picture of the edges, depth or pose itself; nothing is detected in it.
        weight: its strength; 1 is the strength that the ControlNet was trained with.
    """

    kind: str
    image: bytes
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Adapter:
    """One of the model's `adapters`, which are LoRAs, with its weight."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """
    Attributes:
        n: the number of pictures; picture i has the seed `seed + i`.
        width, height: pixels. None: the size of `image`, or else the model's own.
        steps, guidance, scheduler: None stands for the model's own.
        seed: below 2**63. None: the server draws one.
        image: an encoded picture to start from: an edit, or with an empty prompt a variation.
        mask: an encoded picture as large as `image`. Where it is transparent, `image` is repainted; a mask without an
            alpha channel marks those parts in white. Without a mask, transparent parts of `image` are repainted.
        strength: how far to depart from `image`, above 0 to 1. None stands for the model's own.
        partial_images: for streams, how many unfinished versions of each picture to show.
    """

    prompt: str
    negative_prompt: str = ""
    n: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    seed: int | None = None
    image: bytes | None = None
    mask: bytes | None = None
    strength: float | None = None
    controls: tuple[Control, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    output: Output = field(default_factory=Output)
    partial_images: int = 0


class ImageEvent:
    """An item of a stream of pictures."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class EncodedImage(ImageEvent):
    """A finished picture. `data` is a file in the requested format; its metadata says how it was made."""

    index: int
    data: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class ImageResult(ImageEvent):
    """The pictures and how they were made. The same values, model and variant make the same pictures again."""

    images: tuple[EncodedImage, ...]
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    variant: str
    format: PictureFormat
    usage: Usage = NOTHING


@dataclass(frozen=True, slots=True)
class Progress(ImageEvent):
    """An item of a stream: picture `index` has completed `step` of its `steps`."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class PartialImage(ImageEvent):
    """An item of a stream: an encoded file of how picture `index` would look if it stopped now."""

    index: int
    partial_index: int
    data: bytes


MAKE = Unary("make", ImageRequest, ImageResult, large=always)
MAKE_STREAM = Stream("make_stream", ImageRequest, ImageEvent, large=always)


@dataclass(frozen=True, slots=True)
class ControlPicture:
    """A decoded Control: uint8, shape (height, width, 3), as large as the picture to make."""

    kind: str
    pixels: np.ndarray
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture to make, with every value decided.

    Attributes:
        image: to start from; uint8, shape (height, width, 3).
        mask: the parts of `image` to repaint; float32, shape (height, width), 1 is repainted, 0 stays.
        strength: how far to depart from `image`, above 0 to 1.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    seed: int
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    strength: float = 1.0
    controls: tuple[ControlPicture, ...] = ()
    adapters: tuple[Adapter, ...] = ()

    @property
    def pixels(self) -> int:
        return self.width * self.height


class Denoising(Protocol):
    """A picture between `start` and `finish`. Engines keep their own state in it too.

    Attributes:
        batch_key: pictures with equal keys can share a step.
        step: steps done. steps: steps in all; fewer than requested with `image` and a strength below 1.
        prompt_tokens: tokens of the prompt.
    """

    picture: Picture
    batch_key: Hashable
    step: int
    steps: int
    prompt_tokens: int


class ImageEngine(Protocol):
    """A loaded image model. Methods block and are called from one thread at a time.

    All may raise InvalidRequest, and OutOfMemory. After OutOfMemory the memory is free again and the pictures of the
    call are unchanged, so they can be retried in smaller batches.

    Attributes:
        schedulers: names that `Picture.scheduler` can have.
    """

    schedulers: tuple[str, ...]

    def largest_batch(self, width: int, height: int) -> int:
        """How many pictures of this size fit into memory at once; 0 if not even one does."""
        ...

    def start(self, picture: Picture) -> Denoising:
        """Encode the prompt and draw the noise. Raises ContextLengthExceeded for a prompt that is too long."""
        ...

    def step(self, batch: Sequence[Denoising]) -> None:
        """Advance each by one step. All have the same `batch_key` and steps left."""
        ...

    def preview(self, denoising: Denoising) -> np.ndarray:
        """How it would look if it stopped now: uint8, shape (height, width, 3), perhaps smaller than the picture."""
        ...

    def finish(self, batch: Sequence[Denoising]) -> list[np.ndarray]:
        """The finished pictures: uint8, shape (height, width, 3). All have completed their steps and have one size."""
        ...


TASK = Task(
    "images",
    ImageSettings,
    methods=(MAKE, MAKE_STREAM),
    counts=(PROMPT_TOKENS, IMAGES),
    sample=lambda settings: (MAKE(ImageRequest("warm-up", steps=1, seed=0)),),
    batched=True,
)
