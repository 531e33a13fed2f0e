"""The few-step form of doodle: `python -m workshop.starter.doodle.distill FOLDER`. Writes FOLDER/unet_turbo.

The trained denoiser, guided, is followed from noise to pictures in many small steps. A copy of it learns to go in one
step as far as it went in several, and without guidance: four forwards a picture instead of forty. This is progressive
distillation (https://arxiv.org/abs/2202.00512) in one go, with the guidance distilled as well
(https://arxiv.org/abs/2210.03142).
"""

# What diffusers loads is to its annotations a model or a tuple of one and more.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import argparse
import os
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from rich.console import Console
from rich.progress import track

from workshop.starter.doodle.drawings import SIDE, training_example
from workshop.starter.doodle.emoji_pictures import NAMES
from workshop.starter.doodle.train import autocast, new_schedule, steps_of, tokenize


@dataclass(frozen=True)
class Options:
    """`teacher_steps` is a multiple of `steps`, and divides the 1,000 times of the schedule."""

    pictures: int = 3072
    emoji_share: float = 0.2
    guidance: float = 4.0
    teacher_steps: int = 20
    steps: int = 4
    batch: int = 64
    training_steps: int = 1200
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Paths:
    """Ways from noise to pictures. `latents`: where the teacher was before each step of the student, and at the end;
    shape (steps + 1, pictures, 4, SIDE / 4, SIDE / 4). `meanings`: of the captions, shape (pictures, tokens, width)."""

    latents: torch.Tensor
    meanings: torch.Tensor


def student_schedule(steps: int) -> DDIMScheduler:
    schedule = DDIMScheduler.from_config(new_schedule().config, timestep_spacing="trailing")
    schedule.set_timesteps(steps)
    return schedule


def captions(options: Options) -> list[str]:
    """Captions as in training, none of them held out."""
    chance = random.Random(options.seed + 7)
    emoji = [f"an emoji of a {name}" for name in NAMES]
    return [
        chance.choice(emoji) if chance.random() < options.emoji_share else training_example(chance)[1]
        for _ in range(options.pictures)
    ]


@torch.no_grad()
def follow_teacher(pipeline: StableDiffusionPipeline, options: Options) -> Paths:
    device = options.device
    chance = torch.Generator().manual_seed(options.seed + 8)
    schedule = student_schedule(options.teacher_steps)
    pipeline.unet.set_attn_processor(AttnProcessor())
    every = options.teacher_steps // options.steps
    no_meaning = meaning_of(pipeline, [""], device)
    ways, meanings = [], []
    texts = captions(options)
    for start in track(range(0, len(texts), options.batch), "Following the teacher", console=Console(stderr=True)):
        meaning = meaning_of(pipeline, texts[start : start + options.batch], device)
        both = torch.cat([no_meaning.expand_as(meaning), meaning])
        latents = torch.randn((len(meaning), 4, SIDE // 4, SIDE // 4), generator=chance).to(device)
        way = [latents]
        for number, time in enumerate(schedule.timesteps):
            with autocast(device):
                without, with_ = pipeline.unet(torch.cat([latents] * 2), time, both).sample.float().chunk(2)
            guided = without + options.guidance * (with_ - without)
            latents = schedule.step(guided, time, latents).prev_sample
            if (number + 1) % every == 0:
                way.append(latents)
        ways.append(torch.stack(way))
        meanings.append(meaning)
    return Paths(torch.cat(ways, dim=1), torch.cat(meanings))


def meaning_of(pipeline: StableDiffusionPipeline, texts: list[str], device: str) -> torch.Tensor:
    return pipeline.text_encoder(tokenize(pipeline.tokenizer, texts).to(device)).last_hidden_state.float()


def train_student(teacher: UNet2DConditionModel, paths: Paths, options: Options) -> UNet2DConditionModel:
    torch.manual_seed(options.seed + 9)
    device, schedule = options.device, student_schedule(options.steps)
    student = UNet2DConditionModel.from_config(teacher.config).to(device)
    student.load_state_dict(teacher.state_dict())
    student.set_attn_processor(AttnProcessor())
    weights = list(student.parameters())
    optimizer = torch.optim.AdamW(weights, weight_decay=0.01)
    average = EMAModel(weights, decay=0.995, use_ema_warmup=True)
    velocities = velocities_between(paths, schedule)
    losses = []
    for step in steps_of(optimizer, options.training_steps, 4e-4, "Student"):
        chosen = torch.randint(0, paths.latents.shape[1], (options.batch,))
        stage = torch.randint(0, options.steps, (options.batch,))
        with autocast(device):
            times = schedule.timesteps[stage].to(device)
            found = student(paths.latents[stage, chosen].to(device), times, paths.meanings[chosen].to(device)).sample
        loss = F.mse_loss(found.float(), velocities[stage, chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.step(weights)
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"student step {step + 1}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    average.copy_to(weights)
    return student.eval()


def velocities_between(paths: Paths, schedule: DDIMScheduler) -> torch.Tensor:
    """The velocity with which one DDIM step of the student leads from each stop of the teacher to its next one.

    A step keeps `alpha * x + beta * v` of a point x and a velocity v; this is that equation solved for v.
    Shape (steps, pictures, 4, SIDE / 4, SIDE / 4).
    """
    span = schedule.config.num_train_timesteps // len(schedule.timesteps)
    velocities = []
    for number, time in enumerate(schedule.timesteps.tolist()):
        here = schedule.alphas_cumprod[time]
        there = schedule.alphas_cumprod[time - span] if time >= span else schedule.final_alpha_cumprod
        kept = (here * there).sqrt() + ((1 - here) * (1 - there)).sqrt()
        moved = (here * (1 - there)).sqrt() - (there * (1 - here)).sqrt()
        velocities.append((paths.latents[number + 1] - kept * paths.latents[number]) / moved)
    return torch.stack(velocities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in vars(Options()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    folder = arguments.pop("folder")
    options = Options(**arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipeline = pipeline.to(options.device)
    paths = follow_teacher(pipeline, options)
    student = train_student(pipeline.unet, paths, options)
    student.to("cpu", torch.float16).save_pretrained(folder / "unet_turbo")


if __name__ == "__main__":
    main()
