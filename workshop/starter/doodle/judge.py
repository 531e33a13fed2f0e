"""Does a picture show what its caption says? Judged on pixels alone, by rules, without a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from workshop.starter.doodle.drawings import COLOURS, SHAPES, SIDE, Drawing, draw

_BORDER = 3
_TEMPLATE = 48


@dataclass(frozen=True, slots=True)
class Seen:
    """What is in a picture. `shape` is None where nothing stands out from the background."""

    background: str
    colour: str | None
    shape: str | None


def see(picture: Image.Image) -> Seen:
    """The background is what most of the border is; the object is what differs from it; its shape is the drawn one it
    covers best, once both are scaled to one size."""
    pixels = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.int32)
    ground = np.median(border_of(pixels), axis=0)
    distance = np.abs(pixels - ground).sum(axis=2)
    object_ = largest_part(distance > max(45, 0.4 * np.percentile(distance, 99)))
    if object_.sum() < 30:
        return Seen(nearest_colour(ground), None, None)
    # The median over the inside: pixels of the edge are mixed with the background.
    inside = object_ & (distance > 0.8 * np.median(distance[object_]))
    return Seen(nearest_colour(ground), nearest_colour(np.median(pixels[inside], axis=0)), best_shape(object_))


def border_of(pixels: np.ndarray) -> np.ndarray:
    edge = np.ones(pixels.shape[:2], dtype=bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return pixels[edge]


def nearest_colour(colour: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: float(((np.array(COLOURS[name]) - colour) ** 2).sum()))


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part, so that a stray speck does not count as the object."""
    import cv2

    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros_like(mask)
    return labels == 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())


def best_shape(mask: np.ndarray) -> str:
    found = scaled(mask)
    return max(SHAPES, key=lambda shape: overlap(found, template(shape)))


def template(shape: str) -> np.ndarray:
    drawn = np.asarray(draw(Drawing(shape, "black", "white")).convert("L")) < 128
    return scaled(drawn)


def scaled(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box at one size; its proportions are kept."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(box.shape)
    square = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - box.shape[0]) // 2, (side - box.shape[1]) // 2
    square[top : top + box.shape[0], left : left + box.shape[1]] = box * 255
    return np.asarray(Image.fromarray(square).resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BILINEAR)) > 127


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union."""
    return float((first & second).sum() / max(1, (first | second).sum()))
