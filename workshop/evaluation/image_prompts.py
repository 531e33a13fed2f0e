"""Prompts to try image models with, and others to calibrate with: no variant is judged by what it was fitted to."""

from __future__ import annotations

import random

# Things, places, people's work, light, materials, words of style, counts and relations, as people ask for them.
SUBJECTS = (
    "a red vintage car parked by the sea",
    "an old lighthouse in a storm",
    "a bowl of ramen with a boiled egg",
    "a tabby cat asleep on a pile of books",
    "a mountain lake at sunrise",
    "a crowded street market in the rain",
    "a glass teapot on a wooden table",
    "a portrait of an elderly fisherman",
    "two astronauts playing chess on the moon",
    "a field of sunflowers under dark clouds",
    "a hummingbird in front of a pink flower",
    "a medieval castle on a cliff",
    "a robot watering plants in a greenhouse",
    "an empty subway station at night",
    "a blue bicycle leaning against a brick wall",
    "three green apples and one pear",
)
FORMS = (
    "a photograph of {}",
    "an oil painting of {}",
    "a pencil drawing of {}",
    "{}, soft light, shallow depth of field",
)


def general(evaluation: bool) -> list[str]:
    """Half of the subjects each for evaluation and for calibration, in all forms."""
    return [form.format(subject) for form in FORMS for subject in SUBJECTS[evaluation::2]]


def doodle(evaluation: bool) -> list[str]:
    """Captions in Doodle's own words: for evaluation combinations that it never saw, else some that it was taught."""
    from workshop.starter.doodle.drawings import every_combination

    drawings = every_combination(held_out=evaluation)
    random.Random(0).shuffle(drawings)
    return [drawing.caption(form=number % 3) for number, drawing in enumerate(drawings)]


SETS = {"doodle": doodle, "general": general}


def prompts(name: str, evaluation: bool, count: int) -> list[str]:
    """The first so many of a set, which are always the same; from the start again where it has fewer."""
    every = SETS[name](evaluation)
    return [every[number % len(every)] for number in range(count)]
