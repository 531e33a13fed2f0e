"""The training of doodle: `python -m workshop.starter.doodle.train FOLDER`, a folder that any diffusers user can open.

An autoencoder of 64 x 64 pixels to 16 x 16 x 4 latents first, then a text encoder and a denoiser together, on the
latents. Seeded; on one device the same options give the same weights, up to the order of sums in parallel kernels.
"""

# What diffusers loads is to its annotations a model or a tuple of one and more.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false

from __future__ import annotations

import argparse
import math
import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from PIL import Image
from rich.console import Console
from rich.progress import track
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.engines.cpu_arithmetic import converts_bf16
from workshop.starter.doodle.drawings import SIDE, training_example
from workshop.starter.doodle.emoji_pictures import emoji_examples

WIDTH = 128
"""Of the text encoder."""
CONTEXT = 24
"""Tokens of a prompt."""
NO_CAPTION = 0.1
"""Share of the captions that are dropped, so that the model can be guided away from having none."""
SAVE_EVERY = 600
SHIFT = 2
"""Emoji are seen moved by up to this many pixels."""


Save = Callable[[CLIPTextModel, UNet2DConditionModel], None]


@dataclass(frozen=True)
class Options:
    """How long to train, and on how much. The defaults are those the shipped weights were made with."""

    shapes: int = 12_000
    emoji_share: float = 0.2
    batch: int = 64
    autoencoder_steps: int = 2400
    denoiser_steps: int = 3600
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Examples:
    """
    Attributes:
        pixels: uint8, shape (examples, 3, SIDE, SIDE); shapes first, then emoji.
    """

    pixels: torch.Tensor
    captions: list[str]
    shapes: int

    def batch(self, size: int, emoji_share: float, chance: torch.Generator) -> torch.Tensor:
        """Indices of a batch with the wanted share of emoji."""
        emoji = round(size * emoji_share) if len(self.captions) > self.shapes else 0
        return torch.cat(
            [
                torch.randint(0, self.shapes, (size - emoji,), generator=chance),
                torch.randint(self.shapes, max(len(self.captions), self.shapes + 1), (emoji,), generator=chance),
            ]
        )


def make_examples(options: Options, with_emoji: bool = True) -> Examples:
    """Draw all pictures. Raises OSError without the emoji font."""
    chance = random.Random(options.seed)
    pairs = [training_example(chance) for _ in range(options.shapes)]
    if with_emoji:
        pairs += [
            (moved(picture, chance.randint(-SHIFT, SHIFT), chance.randint(-SHIFT, SHIFT)), caption)
            for picture, caption in emoji_examples()
            for _ in range(8)
        ]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    return Examples(pixels, [caption for _, caption in pairs], options.shapes)


def moved(picture: Image.Image, right: int, down: int) -> Image.Image:
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(picture, (right, down))
    return canvas


def autocast(device: str) -> torch.autocast:
    """Computing in bf16, but on a CPU that has to convert it, where float32 is seven times as fast."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or not converts_bf16())


def as_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 as float -1..1."""
    return pixels.float() / 127.5 - 1


def new_autoencoder() -> AutoencoderTiny:
    """Most of it works at a quarter of the resolution, where a convolution costs a sixteenth."""
    return AutoencoderTiny(
        encoder_block_out_channels=(48, 48, 48),
        decoder_block_out_channels=(48, 48, 48),
        num_encoder_blocks=(0, 1, 3),
        num_decoder_blocks=(4, 1, 0),
        latent_channels=4,
    )


def new_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Byte-pair tokens of the captions in CLIP's form: lower case, words end in </w>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, end_of_word_suffix="</w>"
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    merges = folder / "merges.txt"
    if not merges.read_text().startswith("#"):
        merges.write_text("#version: 0.2\n" + merges.read_text())
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(merges), model_max_length=CONTEXT)


def new_text_encoder(vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 4,
        attn_implementation="eager",  # for the same reason as the denoiser's processor
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        projection_dim=WIDTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def new_denoiser() -> UNet2DConditionModel:
    """Attention to the caption is at 8 x 8 only; the caption's summary, added to the time, reaches every layer."""
    denoiser = UNet2DConditionModel(
        sample_size=SIDE // 4,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    denoiser.set_attn_processor(AttnProcessor())  # on CPUs its gradient is several times faster than that of SDPA
    return denoiser


def new_schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def steps_of(optimizer: torch.optim.Optimizer, steps: int, peak: float, title: str) -> Iterator[int]:
    """Count the steps, with a progress bar, and set the learning rate of each: a short rise, then half a cosine."""
    for step in track(range(steps), title, console=Console(stderr=True)):
        rate = peak * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        yield step


def train_autoencoder(examples: Examples, options: Options) -> AutoencoderTiny:
    torch.manual_seed(options.seed)
    chance = torch.Generator().manual_seed(options.seed)
    autoencoder = new_autoencoder().to(options.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), weight_decay=0.0)
    for step in steps_of(optimizer, options.autoencoder_steps, 2e-3, "Autoencoder"):
        pixels = as_input(examples.pixels[examples.batch(options.batch // 2, 0.4, chance)]).to(options.device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with autocast(options.device):
            latents = autoencoder.encode(pixels).latents
            # Noise keeps near latents near in pixels, which is what the denoiser's small errors need.
            seen = autoencoder.decode(latents + 0.1 * torch.randn_like(latents)).sample
        difference = seen.float() - pixels
        loss = difference.square().mean() + 0.3 * difference.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            print(f"autoencoder step {step + 1}: squared error {difference.square().mean().item():.5f}", flush=True)
    return autoencoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(autoencoder: AutoencoderTiny, examples: Examples, device: str) -> torch.Tensor:
    """Latents of every example, scaled to a standard deviation of 1; the scale is noted in the autoencoder."""
    batches = examples.pixels.split(256)
    latents = torch.cat([autoencoder.encode(as_input(batch).to(device)).latents.float() for batch in batches])
    scale = float(1 / latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    return latents * scale


def train_denoiser(
    latents: torch.Tensor, examples: Examples, tokenizer: CLIPTokenizer, options: Options, save: Save
) -> None:
    """Train both; `save` is called with them now and then, and last, with their weights averaged over many steps."""
    torch.manual_seed(options.seed + 1)
    chance = torch.Generator().manual_seed(options.seed + 1)
    device, schedule = options.device, new_schedule()
    tokens = tokenize(tokenizer, examples.captions).to(device)
    no_caption = tokenize(tokenizer, [""])[0].to(device)
    text_encoder = new_text_encoder(len(tokenizer)).to(device)
    denoiser = new_denoiser().to(device)
    weights = [*text_encoder.parameters(), *denoiser.parameters()]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.01)
    average = EMAModel(weights, decay=0.999, use_ema_warmup=True, inv_gamma=1, power=0.8)
    losses = []
    for step in steps_of(optimizer, options.denoiser_steps, 1e-3, "Denoiser"):
        chosen = examples.batch(options.batch, options.emoji_share, chance).to(device)
        clean, captions = latents[chosen], tokens[chosen].clone()
        captions[torch.rand(len(captions), device=device) < NO_CAPTION] = no_caption
        noise = torch.randn_like(clean)
        # Spread evenly over the schedule: the loss of a batch then says less about which times it happened to draw.
        spread = (torch.rand(len(clean)) + torch.arange(len(clean))) / len(clean)
        times = (spread * schedule.config.num_train_timesteps).long().to(device)
        noisy, wanted = schedule.add_noise(clean, noise, times), schedule.get_velocity(clean, noise, times)
        with autocast(device):
            meaning = text_encoder(captions).last_hidden_state
            found = denoiser(noisy, times, meaning).sample
        loss = F.mse_loss(found.float(), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.step(weights)
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"denoiser step {step + 1}: loss {np.mean(losses[-100:]):.4f}", flush=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == options.denoiser_steps:
            average.store(weights)
            average.copy_to(weights)
            save(text_encoder, denoiser)
            average.restore(weights)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, shape (captions, CONTEXT)."""
    return tokenizer(captions, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt").input_ids


def assemble(
    autoencoder: AutoencoderTiny, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, denoiser: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """The pipeline, with the sampler it is best with at 20 steps."""
    return StableDiffusionPipeline(
        vae=autoencoder,  # type: ignore[arg-type]
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=DPMSolverMultistepScheduler.from_config(new_schedule().config),
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def save_in_halves(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save in 16 bits. The text encoder is marked as one of 32: else transformers would load it in 16 and diffusers
    the rest in 32, which do not go together."""
    pipeline.to("cpu", torch.float16).save_pretrained(folder)
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, value in vars(Options()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    folder = arguments.pop("folder")
    options = Options(**arguments)
    torch.set_num_threads(os.cpu_count() or 1)  # torch's own choice leaves out the second thread of a core
    examples = make_examples(options)
    tokenizer = new_tokenizer(examples.captions, folder / "tokenizer")
    autoencoder = train_autoencoder(examples, options)
    latents = encode_all(autoencoder, examples, options.device)
    autoencoder.save_pretrained(folder / "vae")

    def save(text_encoder: CLIPTextModel, denoiser: UNet2DConditionModel) -> None:
        save_in_halves(assemble(autoencoder, deepcopy(text_encoder), tokenizer, deepcopy(denoiser)), folder)

    train_denoiser(latents, examples, tokenizer, options, save)


if __name__ == "__main__":
    main()
