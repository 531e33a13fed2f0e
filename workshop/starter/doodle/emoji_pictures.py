"""Captioned emoji: the pictures of Noto Color Emoji (SIL Open Font License 1.1) with their Unicode names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from workshop.starter.doodle.drawings import SIDE

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian's fonts-noto-color-emoji puts it."""

# The pictures of this font are 136 pixels wide and 128 high, at this one size.
_FONT_SIZE, _WIDTH, _HEIGHT = 109, 136, 128

# Well-known ones, few enough that a model this small can learn each of them.
NAMES = {
    "red apple": "\N{RED APPLE}",
    "banana": "\N{BANANA}",
    "strawberry": "\N{STRAWBERRY}",
    "cherries": "\N{CHERRIES}",
    "grapes": "\N{GRAPES}",
    "lemon": "\N{LEMON}",
    "tomato": "\N{TOMATO}",
    "watermelon": "\N{WATERMELON}",
    "pizza": "\N{SLICE OF PIZZA}",
    "hamburger": "\N{HAMBURGER}",
    "doughnut": "\N{DOUGHNUT}",
    "cookie": "\N{COOKIE}",
    "grinning face": "\N{GRINNING FACE}",
    "smiling face with sunglasses": "\N{SMILING FACE WITH SUNGLASSES}",
    "crying face": "\N{CRYING FACE}",
    "angry face": "\N{POUTING FACE}",
    "clown face": "\N{CLOWN FACE}",
    "ghost": "\N{GHOST}",
    "skull": "\N{SKULL}",
    "alien": "\N{EXTRATERRESTRIAL ALIEN}",
    "robot": "\N{ROBOT FACE}",
    "cat face": "\N{CAT FACE}",
    "dog face": "\N{DOG FACE}",
    "fox": "\N{FOX FACE}",
    "panda": "\N{PANDA FACE}",
    "frog": "\N{FROG FACE}",
    "pig face": "\N{PIG FACE}",
    "chick": "\N{BABY CHICK}",
    "penguin": "\N{PENGUIN}",
    "tropical fish": "\N{TROPICAL FISH}",
    "sun": "\N{SUN WITH FACE}",
    "full moon": "\N{FULL MOON SYMBOL}",
    "rainbow": "\N{RAINBOW}",
    "fire": "\N{FIRE}",
    "globe": "\N{EARTH GLOBE EUROPE-AFRICA}",
    "tree": "\N{DECIDUOUS TREE}",
    "cactus": "\N{CACTUS}",
    "tulip": "\N{TULIP}",
    "sunflower": "\N{SUNFLOWER}",
    "rose": "\N{ROSE}",
    "soccer ball": "\N{SOCCER BALL}",
    "basketball": "\N{BASKETBALL AND HOOP}",
    "balloon": "\N{BALLOON}",
    "gift": "\N{WRAPPED PRESENT}",
    "house": "\N{HOUSE BUILDING}",
    "car": "\N{AUTOMOBILE}",
    "rocket": "\N{ROCKET}",
    "key": "\N{KEY}",
}


def emoji_examples(font: Path = FONT) -> list[tuple[Image.Image, str]]:
    """Every emoji on white, 64 x 64 pixels, with its caption. Raises OSError without the font."""
    face = ImageFont.truetype(font, _FONT_SIZE)
    return [(picture_of(character, face), f"an emoji of a {name}") for name, character in NAMES.items()]


def picture_of(character: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _WIDTH), "white")
    ImageDraw.Draw(image).text((0, (_WIDTH - _HEIGHT) // 2), character, font=face, embedded_color=True)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
