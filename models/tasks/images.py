"""Images: a prompt in, pictures out; or a picture changed by a prompt, repainted under a mask, varied, or guided by
another picture.

An engine works in steps, so that a server can denoise pictures of several requests in one batch, let new ones join
between two steps and drop a cancelled one: `start` (encode the prompt, draw the noise), `step` (one denoising step of
every picture in the batch), `finish` (latents to pixels). Encoded media stays outside: engines see arrays.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from PIL import ImageColor

from models.errors import InvalidRequest
from models.specs import ModelSpec, VariantSpec
from models.tasks.methods import Stream, Unary, always
from models.tasks.usage import NOTHING, Usage

Format = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, slots=True)
class Output:
    """How pictures are written.

    Attributes:
        compression: quality of jpeg and lossy webp, 0 to 100; png is always lossless.
        background: transparent keeps or makes an alpha channel, which jpeg has not.
    """

    format: Format = "png"
    compression: int = 100
    background: Literal["auto", "opaque", "transparent"] = "auto"


@dataclass(frozen=True, slots=True)
class Control:
    """A picture that says where things are: edges, depth or a pose.

    Attributes:
        kind: one of the model's `controls`.
        image: an encoded picture; it is used as it is, nothing is detected in it.
        weight: how much it counts; 1 is what the ControlNet was trained with.
    """

    kind: str
    image: bytes
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA of the model's `adapters`, with its weight."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """
    Attributes:
        n: pictures; number i has the seed `seed + i`.
        width, height: pixels; None is the model's own size, or that of `image`.
        steps, guidance, scheduler: None is the model's own.
        seed: below 2**63; None lets the server draw one.
        image: an encoded picture to start from: an edit, or with an empty prompt a variation.
        mask: an encoded picture as large as `image`; where it is transparent (or white, if it has no alpha channel)
            `image` is repainted, elsewhere it stays as it is. Without it, transparent parts of `image` are repainted.
        strength: how far to go from `image`, above 0 to 1; None is the model's own.
        partial_images: unfinished pictures shown of each one on the way, for streams.
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
    output: Output = Output()
    partial_images: int = 0


class ImageEvent:
    """An item of a stream of pictures."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class EncodedImage(ImageEvent):
    """A finished picture. `data` is a file of the format asked for, with its making written into its metadata."""

    index: int
    data: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class ImageResult(ImageEvent):
    """The pictures and how they were made: with the same values, model and variant they can be made again."""

    images: tuple[EncodedImage, ...]
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    variant: str
    format: Format
    usage: Usage = NOTHING


@dataclass(frozen=True, slots=True)
class Progress(ImageEvent):
    """An item of a stream: picture `index` has done `step` of its `steps`."""

    index: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class PartialImage(ImageEvent):
    """An item of a stream: how picture `index` would look if it ended now, an encoded file."""

    index: int
    partial_index: int
    data: bytes


MAKE = Unary("make", ImageRequest, ImageResult, large=always)
MAKE_STREAM = Stream("make_stream", ImageRequest, ImageEvent, large=always)


@dataclass(frozen=True, slots=True)
class ControlPicture:
    """A Control, decoded: uint8, shape (height, width, 3), as large as the picture to make."""

    kind: str
    pixels: np.ndarray
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture to make, every value settled.

    Attributes:
        image: to start from; uint8, shape (height, width, 3).
        mask: what of it to repaint; float32, shape (height, width), 1 is repainted, 0 stays.
        strength: how far from `image`, above 0 to 1.
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
    """A picture on its way, between `start` and `finish`. What else is in it is the engine's own.

    Attributes:
        batch_key: pictures with equal keys can share a step.
        step: steps done. steps: steps in all; with `image` and a strength below 1 fewer than were asked for.
        prompt_tokens: tokens of the prompt.
    """

    picture: Picture
    batch_key: Hashable
    step: int
    steps: int
    prompt_tokens: int


class ImageEngine(Protocol):
    """A loaded image model. Methods block and are called from one thread at a time.

    All may raise InvalidRequest, and OutOfMemory with the memory freed again: after it, the pictures of the call are as
    they were before and can be tried in smaller batches.

    Attributes:
        schedulers: names that `Picture.scheduler` can have.
    """

    schedulers: tuple[str, ...]

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self: ...

    def largest_batch(self, width: int, height: int) -> int:
        """How many pictures of a size fit in memory at once; 0 when not even one does."""
        ...

    def start(self, picture: Picture) -> Denoising:
        """Encode the prompt and draw the noise. Raises ContextLengthExceeded for a prompt that is too long."""
        ...

    def step(self, batch: Sequence[Denoising]) -> None:
        """One step of each; all have one `batch_key`, and none has done all its steps."""
        ...

    def preview(self, denoising: Denoising) -> np.ndarray:
        """How it would look if it ended now: uint8, shape (height, width, 3), perhaps smaller than the picture."""
        ...

    def finish(self, batch: Sequence[Denoising]) -> list[np.ndarray]:
        """The pictures: uint8, shape (height, width, 3). All have done all their steps and have one size."""
        ...


@dataclass(slots=True, eq=False)
class FakeDenoising:
    picture: Picture
    steps: int
    batch_key: Hashable = None
    step: int = 0
    prompt_tokens: int = 0
    log: list[int] = field(default_factory=list)


class FakeImages:
    """Deterministic pictures without a model: the first colour word of the prompt, mixed with a seeded noise that
    fades with every step. `batches` notes how many pictures shared each step."""

    schedulers = ("fake", "other")

    def __init__(self) -> None:
        self.batches: list[int] = []

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls()

    def largest_batch(self, width: int, height: int) -> int:
        return 8 if width * height <= 1 << 20 else 0

    def start(self, picture: Picture) -> FakeDenoising:
        if "unspeakable" in picture.prompt:
            raise InvalidRequest("The fake does not know that word.", "prompt")
        steps = picture.steps if picture.image is None else max(1, round(picture.steps * picture.strength))
        key = (picture.width, picture.height, picture.adapters)
        return FakeDenoising(picture, steps, key, prompt_tokens=len(picture.prompt.split()))

    def step(self, batch: Sequence[FakeDenoising]) -> None:
        self.batches.append(len(batch))
        for denoising in batch:
            denoising.step += 1

    def preview(self, denoising: FakeDenoising) -> np.ndarray:
        picture = denoising.picture
        noise = np.random.default_rng(picture.seed).integers(0, 256, (picture.height, picture.width, 3))
        colour = np.full_like(noise, 1) * np.array(colour_in(picture.prompt))
        if picture.image is not None and not picture.prompt:
            colour = picture.image
        share = 0.9 * denoising.step / denoising.steps
        return (share * colour + (1 - share) * noise).astype(np.uint8)

    def finish(self, batch: Sequence[FakeDenoising]) -> list[np.ndarray]:
        return [self.preview(denoising) for denoising in batch]


def colour_in(prompt: str) -> tuple[int, int, int]:
    """The first word that CSS knows as a colour; grey without one."""
    for word in prompt.lower().split():
        if word in ImageColor.colormap:
            red, green, blue = ImageColor.getrgb(word)[:3]
            return red, green, blue
    return 128, 128, 128
