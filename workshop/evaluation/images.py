"""Images: the same pictures for the same prompts and seeds, and as a set the same kind of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.registry import engine_class
from models.sources import PackagedSource
from models.specs import ModelSpec, VariantSpec
from models.tasks.images import TASK, ImageEngine, ImageSettings, Picture
from workshop.evaluation.evaluation import Answers, Evaluation, Fraction, Measure
from workshop.evaluation.image_prompts import prompts
from workshop.evaluation.picture_distribution import distance, features_of
from workshop.evaluation.pictures import psnr, ssim

PROMPTS = 32
EDITS = 8
EDIT_STRENGTH = 0.25  # little, so that how a picture was encoded is seen in what becomes of it
SEEDS = (0, 1)  # of the first prompt; the second set tells how far the reference is from itself
LARGEST_BATCH = 8


class ImagesSubject:
    def __init__(self, engine: ImageEngine, settings: ImageSettings, prompt_set: str):
        self.engine = engine
        self.settings = settings
        self.prompt_set = prompt_set

    def answers(self, fraction: Fraction) -> Answers:
        """`pictures`, uint8 (seeds, prompts, height, width, 3); pictures changed by a prompt, `edits`, uint8 (edits,
        height, width, 3); and for models that draw shapes whether each of `pictures` shows what was asked for:
        `asked_for`, (seeds, prompts)."""
        texts = prompts(self.prompt_set, evaluation=True, count=PROMPTS)
        wanted = [self._picture(text, 2 * at + seed) for seed in SEEDS for at, text in enumerate(texts)]
        edits = [self._edit(text, at) for at, text in enumerate(texts[:EDITS])]
        made: list[np.ndarray] = []
        while left := [*wanted, *edits][len(made) :]:
            # An edit has fewer steps: it is never in a batch with others.
            size = min(self._batch(LARGEST_BATCH), len(wanted) - len(made) if len(made) < len(wanted) else len(left))
            made += self._make(left[:size])
            fraction(len(made) / (len(wanted) + len(edits)))
        pictures = np.stack(made[: len(wanted)]).reshape(len(SEEDS), len(texts), *made[0].shape)
        answers = {"pictures": pictures, "edits": np.stack(made[len(wanted) :])}
        if self.prompt_set == "doodle":
            answers["asked_for"] = np.stack([shows_asked(of_seed, texts) for of_seed in pictures])
        return answers

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        texts = prompts(self.prompt_set, evaluation=True, count=PROMPTS)
        wanted = [self._picture(texts[(turn * batch + at) % len(texts)], turn + at) for at in range(batch)]
        while wanted:
            size = self._batch(batch)
            self._make(wanted[:size])
            wanted = wanted[size:]
        return {}

    def close(self) -> None:
        pass

    def _batch(self, most: int) -> int:
        return max(1, min(most, self.engine.largest_batch(self.settings.width, self.settings.height)))

    def _picture(self, prompt: str, seed: int) -> Picture:
        own = self.settings
        return Picture(prompt, "", own.width, own.height, own.steps, own.guidance, own.scheduler, seed)

    def _edit(self, prompt: str, seed: int) -> Picture:
        own = self.settings
        image = soft_colours(own.width, own.height, seed)
        return replace(self._picture(prompt, seed), image=image, strength=EDIT_STRENGTH)

    def _make(self, wanted: Sequence[Picture]) -> list[np.ndarray]:
        batch = [self.engine.start(picture) for picture in wanted]
        while batch[0].step < batch[0].steps:
            self.engine.step(batch)
        return self.engine.finish(batch)


def soft_colours(width: int, height: int, seed: int) -> np.ndarray:
    """Something to start from, which no model made: uint8 (height, width, 3)."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def open_variant(spec: ModelSpec, variant: VariantSpec, weights: Path) -> ImagesSubject:
    engine = engine_class(spec.task, variant.backend).load(spec, variant, weights)
    return ImagesSubject(engine, TASK.settings_of(spec), prompt_set_of(spec))


def prompt_set_of(spec: ModelSpec) -> str:
    return "doodle" if isinstance(spec.source, PackagedSource) and spec.source.path.startswith("doodle/") else "general"


def shows_asked(pictures: Sequence[np.ndarray] | np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Whether each picture shows the shape, its colour and the background that its prompt names."""
    from PIL import Image

    from workshop.starter.doodle.drawings import every_combination
    from workshop.starter.doodle.judge import see

    asked = {drawing.caption(form): drawing for drawing in every_combination(held_out=True) for form in range(3)}
    shown = []
    for pixels, text in zip(pictures, texts, strict=True):
        seen, drawing = see(Image.fromarray(pixels)), asked[text]
        wanted = (drawing.shape, drawing.colour, drawing.background)
        shown.append((seen.shape, seen.colour, seen.background) == wanted)
    return np.array(shown)


def compare(reference: Answers, variant: Answers) -> dict[str, float]:
    theirs, ours = reference["pictures"], variant["pictures"]
    shape = (-1, *theirs.shape[2:])
    pairs = list(zip(theirs.reshape(shape), ours.reshape(shape), strict=True))
    decibels = [psnr(wanted, made) for wanted, made in pairs]
    found = {
        "psnr": float(np.mean(decibels)),
        "psnr_worst": float(np.quantile(decibels, 0.1)),
        "ssim": float(np.mean([ssim(wanted, made) for wanted, made in pairs])),
        "drift": drift(theirs, ours),
        "edit_psnr": mean_psnr(reference["edits"], variant["edits"]),
    }
    if "asked_for" in variant:
        found["asked_for"] = float(variant["asked_for"].mean())
    return found


def mean_psnr(wanted: np.ndarray, made: np.ndarray) -> float:
    return float(np.mean([psnr(a, b) for a, b in zip(wanted, made, strict=True)]))


def drift(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The distance between a variant's pictures and the reference's, in units of that between the reference's own
    pictures with one set of seeds and with another."""
    wanted, made = [features_of(of_seed) for of_seed in theirs], [features_of(of_seed) for of_seed in ours]
    scale = np.concatenate(wanted).std(axis=0) + 1e-6
    own = distance(wanted[0], wanted[1], scale)
    return float(np.mean([distance(a, b, scale) for a, b in zip(wanted, made, strict=True)])) / max(own, 1e-9)


EVALUATION = Evaluation(
    measures={
        "psnr": Measure(
            "PSNR",
            f"Peak signal-to-noise ratio to the reference's picture of the same prompt and seed; mean of {PROMPTS} "
            f"prompts with {len(SEEDS)} seeds each.",
            True,
            " dB",
        ),
        "psnr_worst": Measure("Worst PSNR", "The peak signal-to-noise ratio that 9 of 10 pictures reach.", True, " dB"),
        "ssim": Measure("SSIM", "Structural similarity (Wang et al., 2004) of the same pairs of pictures.", True),
        "drift": Measure(
            "Drift",
            "Fréchet distance to the reference's pictures, over hand-made features of colours, edges and fineness, in "
            "units of the reference's distance to its own pictures with other seeds: 0 is none.",
            False,
        ),
        "edit_psnr": Measure(
            "PSNR of edits",
            f"Peak signal-to-noise ratio to the reference's picture, of {EDITS} pictures changed a little.",
            True,
            " dB",
        ),
        "asked_for": Measure(
            "Asked for",
            "Share of pictures with the shape, colour and background asked for, where rules can tell.",
            True,
        ),
    },
    item="picture",
    open=open_variant,
    compare=compare,
)
