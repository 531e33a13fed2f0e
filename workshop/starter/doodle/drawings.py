"""Captioned drawings: one shape of one colour on a background of another, 64 x 64 pixels."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 210, 40),
    "orange": (245, 140, 30),
    "purple": (140, 60, 180),
    "pink": (250, 130, 180),
    "brown": (130, 80, 40),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "gray": (130, 130, 130),
    "cyan": (60, 210, 220),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart", "ring", "cross")
RADII = {"small": 13, "medium": 19, "large": 26}
"""Half the height of a shape, in pixels."""
PLACES = {
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
}
_OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Drawing:
    shape: str
    colour: str
    background: str
    size: str = "large"
    place: str = ""

    @property
    def held_out(self) -> bool:
        """Whether this combination of shape and colours is kept out of training: one in five, chosen by a hash."""
        combination = f"{self.shape} {self.colour} {self.background}"
        return combination == "circle red blue" or hashlib.sha256(combination.encode()).digest()[0] < 51

    def caption(self, form: int = 0) -> str:
        """The caption in one of three forms; the size is not named in the second and third when it is medium."""
        article = "an" if self.background[0] in "aeiou" else "a"
        size = "" if self.size == "medium" and form else self.size
        shape = " ".join(filter(None, [size, self.colour, self.shape]))
        place = f" {self.place}" if self.place else ""
        match form:
            case 0:
                return f"a {shape} on {article} {self.background} background{place}"
            case 1:
                return f"a {shape}{place} on {self.background}"
            case _:
                return f"{shape}{place}, {self.background} background"


def every_combination(held_out: bool) -> list[Drawing]:
    """Every shape, colour and background that differ, those of training or those kept out of it."""
    return [
        drawing
        for shape in SHAPES
        for colour in COLOURS
        for background in COLOURS
        if colour != background and (drawing := Drawing(shape, colour, background)).held_out is held_out
    ]


def training_example(chance: random.Random) -> tuple[Image.Image, str]:
    """A random drawing that is not held out, and its caption."""
    while True:
        drawing = Drawing(
            chance.choice(SHAPES),
            chance.choice(list(COLOURS)),
            chance.choice(list(COLOURS)),
            chance.choices(list(RADII), weights=(1, 2, 3))[0],
            chance.choice(["", "", "", "", *PLACES]),
        )
        if drawing.colour != drawing.background and not drawing.held_out:
            break
    # A caption without a size or a place says nothing of them: the shape is then large or medium, in the middle.
    form = chance.choices((0, 1, 2), weights=(3, 1, 1))[0]
    caption = drawing.caption(form)
    if not drawing.place and drawing.size != "small" and chance.random() < 0.5:
        caption = caption.replace(f"{drawing.size} ", "")
    return draw(drawing, chance), caption


def draw(drawing: Drawing, chance: random.Random | None = None) -> Image.Image:
    """The picture. With a source of chance, its size and place vary a little."""
    radius = RADII[drawing.size] * (chance.uniform(0.94, 1.06) if chance else 1)
    right, down = PLACES.get(drawing.place, (0, 0))
    room = (SIDE / 2 - 2 - radius) * 0.9
    x = SIDE / 2 + right * room + (chance.uniform(-1, 1) if chance else 0)
    y = SIDE / 2 + down * room + (chance.uniform(-1, 1) if chance else 0)
    image = Image.new("RGB", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING), COLOURS[drawing.background])
    paint_shape(ImageDraw.Draw(image), drawing, x * _OVERSAMPLING, y * _OVERSAMPLING, radius * _OVERSAMPLING)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def paint_shape(canvas: ImageDraw.ImageDraw, drawing: Drawing, x: float, y: float, radius: float) -> None:
    colour = COLOURS[drawing.colour]
    if drawing.shape in ("circle", "ring"):
        canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        if drawing.shape == "ring":
            hole = radius * 0.55
            canvas.ellipse([x - hole, y - hole, x + hole, y + hole], fill=COLOURS[drawing.background])
    elif drawing.shape == "square":
        half = radius * 0.85
        canvas.rectangle([x - half, y - half, x + half, y + half], fill=colour)
    else:
        canvas.polygon(corners(drawing.shape, x, y, radius), fill=colour)


def corners(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The outline of a shape with straight sides, or of a heart."""
    if shape == "triangle":
        return [(x + radius * math.sin(a), y - radius * math.cos(a)) for a in (0, math.tau / 3, 2 * math.tau / 3)]
    if shape == "diamond":
        return [(x, y - radius), (x + radius * 0.75, y), (x, y + radius), (x - radius * 0.75, y)]
    if shape == "star":
        arms = [(radius if i % 2 == 0 else radius * 0.42, i * math.pi / 5) for i in range(10)]
        return [(x + length * math.sin(a), y - length * math.cos(a)) for length, a in arms]
    if shape == "heart":
        # https://mathworld.wolfram.com/HeartCurve.html, the last of its curves
        unit = radius * 0.062
        turns = [math.tau * i / 40 for i in range(40)]
        return [
            (
                x + unit * 16 * math.sin(t) ** 3,
                y - unit * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
            )
            for t in turns
        ]
    if shape == "cross":
        arm, near = radius, radius * 0.35
        signs = [(-near, -arm), (near, -arm), (near, -near), (arm, -near), (arm, near), (near, near)]
        return [(x + dx, y + dy) for dx, dy in signs] + [(x - dx, y - dy) for dx, dy in signs]
    raise ValueError(f"there is no shape {shape!r}; there are {', '.join(SHAPES)}")
