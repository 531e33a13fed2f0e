"""Style transfer: a picture in, the same scene painted in another style out."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from models.errors import InvalidRequest
from models.media.formats import Output
from models.media.samples import GREY
from models.tasks.methods import Unary, always
from models.tasks.pictures import PictureResult
from models.tasks.task import Settings, Task
from models.tasks.usage import IMAGES

if TYPE_CHECKING:
    import numpy as np


class StyleSettings(Settings):
    styles: tuple[str, ...] = Field(min_length=1, description="names of styles")

    def card(self) -> dict[str, Any]:
        return {"styles": self.styles}

    def style_named(self, name: str) -> str:
        """The style of this name.

        Raises:
            InvalidRequest: there is none. The message lists similar names, or all of them.
        """
        if name in self.styles:
            return name
        wanted = name[:100].lower()
        near = [style for style in self.styles if wanted and wanted in style]
        near += [
            style for style in difflib.get_close_matches(wanted, self.styles, n=3, cutoff=0.5) if style not in near
        ]
        instead = f"Did you mean {' or '.join(near[:3])}?" if near else f"It has {', '.join(self.styles)}."
        raise InvalidRequest(f"This model has no style {name[:100]!r}. {instead}", "style")


@dataclass(frozen=True, slots=True)
class StyleRequest:
    """
    Attributes:
        image: an encoded picture, the content.
        style: one of the model's named styles, or an encoded picture to take the style from.
        strength: 1 is the full style, 0 the unchanged picture; values between blend the two.
    """

    image: bytes
    style: str | bytes
    strength: float = 1.0
    output: Output = field(default_factory=Output)


STYLIZE = Unary("stylize", StyleRequest, PictureResult, large=always)


class StyleEngine(Protocol):
    """A loaded style model. Methods block and are called from one thread at a time."""

    def stylize(self, image: np.ndarray, style: str | np.ndarray) -> np.ndarray:
        """The picture in a named style or in that of another picture.

        Args:
            image, style: uint8, shape (height, width, 3), of any sizes.

        Returns:
            uint8, as large as `image`.
        """
        ...


TASK = Task(
    "styles",
    StyleSettings,
    methods=(STYLIZE,),
    counts=(IMAGES,),
    sample=lambda settings: tuple(STYLIZE(StyleRequest(GREY, style)) for style in (settings.styles[0], GREY)),
)
