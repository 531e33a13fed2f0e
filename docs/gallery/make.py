"""The pictures of this page, made by a running starter cluster: `python docs/gallery/make.py [ADDRESS]`.

Every picture comes through the official client or its HTTP form. Seeds are fixed; nothing is chosen by hand.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import httpx
import numpy as np
import openai
from PIL import Image, ImageDraw, ImageFont

from models.catalog import load_catalog
from models.tasks.styles import TASK
from workshop.starter.doodle.drawings import Drawing, draw
from workshop.starter.doodle.emoji_pictures import NAMES

HERE = Path(__file__).parent
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
CELL, LABEL = 128, 16
CLIENT = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="none", timeout=300)
HTTP = httpx.Client(base_url=ADDRESS, timeout=300, trust_env=False)

Cell = tuple[str, Image.Image]


def generated(model: str, prompt: str, seed: int = 1, **more: object) -> Image.Image:
    answer = CLIENT.images.generate(model=model, prompt=prompt, extra_body={"seed": seed, **more})
    return opened(answer)


def opened(answer: openai.types.ImagesResponse) -> Image.Image:
    assert answer.data
    return Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))).convert("RGB")


def posted(path: str, picture: Image.Image, **form: str) -> Image.Image:
    answer = HTTP.post(path, data=form, files={"image": ("picture.png", png(picture), "image/png")}).raise_for_status()
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).convert("RGB")


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def sheet(name: str, rows: list[list[Cell]], cell: int = CELL) -> None:
    """Write rows of labelled pictures."""
    font = ImageFont.load_default(11)
    width = max(map(len, rows)) * (cell + 8) + 8
    page = Image.new("RGB", (width, len(rows) * (cell + LABEL + 8) + 8), "white")
    pen = ImageDraw.Draw(page)
    for row, cells in enumerate(rows):
        for column, (label, picture) in enumerate(cells):
            x, y = 8 + column * (cell + 8), 8 + row * (cell + LABEL + 8)
            page.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (x, y))
            pen.text((x, y + cell + 1), label, fill="black", font=font)
    page.save(HERE / name, optimize=True)
    sys.stdout.write(f"{name}: {page.width}x{page.height}\n")


def shapes(model: str) -> list[list[Cell]]:
    drawings = [
        Drawing("circle", "red", "blue"),
        Drawing("star", "yellow", "black"),
        Drawing("heart", "pink", "white"),
        Drawing("triangle", "green", "orange"),
        Drawing("ring", "cyan", "purple"),
        Drawing("cross", "white", "red"),
        Drawing("square", "brown", "gray", "small", "on the left"),
        Drawing("diamond", "orange", "cyan", "medium", "at the top"),
    ]
    return [
        [
            (
                f"{one.colour} {one.shape}, {one.background}"[:24],
                generated(model, one.caption().replace("large ", ""), seed),
            )
            for one in drawings
        ]
        for seed in (1, 2)
    ]


def emoji() -> list[list[Cell]]:
    names = list(NAMES)
    cells = [(name[:22], generated("doodle", f"an emoji of a {name}", 1)) for name in names]
    return [cells[start : start + 8] for start in range(0, len(cells), 8)]


def edits() -> list[list[Cell]]:
    original = draw(Drawing("square", "green", "white"))
    mask = np.full((64, 64, 4), 255, dtype=np.uint8)
    mask[8:56, 8:56, 3] = 0

    def masked(prompt: str) -> Image.Image:
        answer = CLIENT.images.edit(
            model="doodle",
            image=("square.png", png(original)),
            mask=("mask.png", png(Image.fromarray(mask))),
            prompt=prompt,
            extra_body={"seed": 1},
        )
        return opened(answer)

    def whole(prompt: str, strength: float) -> Image.Image:
        answer = CLIENT.images.edit(
            model="doodle",
            image=("square.png", png(original)),
            prompt=prompt,
            extra_body={"seed": 1, "strength": strength},
        )
        return opened(answer)

    canvas = np.asarray(draw(Drawing("circle", "blue", "yellow", "small")).convert("RGBA")).copy()
    canvas[:, 44:, 3] = 0
    continued = opened(
        CLIENT.images.edit(
            model="doodle",
            image=("canvas.png", png(Image.fromarray(canvas))),
            prompt="a small blue circle on a yellow background",
            extra_body={"seed": 1},
        )
    )
    heart = draw(Drawing("heart", "pink", "black"))
    shown = Image.new("RGB", (64, 64), "gray")
    shown.paste(Image.fromarray(canvas).convert("RGB"), mask=Image.fromarray(canvas).getchannel("A"))
    return [
        [
            ("original", original),
            ("mask: red circle", masked("a red circle on a white background")),
            ("mask: blue star", masked("a blue star on a white background")),
            ("0.6: orange square", whole("an orange square on a white background", 0.6)),
            ("0.8: purple ring", whole("a purple ring on a white background", 0.8)),
        ],
        [
            ("heart", heart),
            *[
                (
                    f"variation {strength}",
                    posted("/v1/images/variations", heart, model="doodle", seed="1", strength=strength),
                )
                for strength in ("0.3", "0.5", "0.7")
            ],
        ],
        [("right side empty", shown), ("continued", continued)],
    ]


def upscales() -> list[list[Cell]]:
    pictures = [
        ("doodle: star", generated("doodle", "a yellow star on a black background", 1)),
        ("doodle: fox", generated("doodle", "an emoji of a fox", 1)),
        ("drawn: heart", draw(Drawing("heart", "red", "white"))),
    ]
    large = [(f"{name} x4", posted("/v1/images/upscales", one, model="realesr-animevideov3")) for name, one in pictures]
    return [pictures, large]


def styles() -> list[list[Cell]]:
    content = posted("/v1/images/upscales", generated("doodle", "an emoji of a house", 1), model="realesr-animevideov3")
    names = TASK.settings_of(load_catalog()["magenta-styles"]).styles
    cells = [("original", content)] + [
        (name[:20], posted("/v1/images/styles", content, model="magenta-styles", style=name)) for name in names
    ]
    return [cells[start : start + 7] for start in range(0, len(cells), 7)]


def main() -> None:
    sheet("shapes.png", shapes("doodle"))
    sheet("shapes-turbo.png", shapes("doodle-turbo"))
    sheet("emoji.png", emoji())
    sheet("edits.png", edits())
    sheet("upscales.png", upscales(), cell=256)
    sheet("styles.png", styles(), cell=160)


if __name__ == "__main__":
    main()
