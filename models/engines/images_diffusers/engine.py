"""The engine: pictures of different requests, at different steps of different schedules, in one call of the denoiser.

Every picture has its own scheduler, random generator, latents and conditioning. A batch only stacks the denoiser's
inputs. So pictures can join and leave between any two steps, and each comes out as it would alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from models.engines.images_diffusers import latents as coding
from models.engines.images_diffusers.adapters import Adapters, weights_file
from models.engines.images_diffusers.controls import Controls
from models.engines.images_diffusers.denoising import (
    Conditioning,
    KeptPart,
    LatentDenoising,
    Restorable,
    add_noise,
)
from models.engines.images_diffusers.families import Family, family_of
from models.engines.images_diffusers.families.family import steps_for
from models.engines.images_diffusers.loading import (
    Options,
    device_for,
    dtype_of,
    fuse_adapters,
    load_pipeline,
    place,
    wants_channels_last,
)
from models.engines.images_diffusers.memory import (
    Measured,
    MemoryTable,
    free_bytes,
    out_of_memory_is_an_answer,
    peak_bytes,
)
from models.engines.images_diffusers.prompts import PromptCache
from models.engines.images_diffusers.schedulers import new_scheduler, samplers_for
from models.errors import InvalidRequest
from models.specs import ModelSpec, VariantSpec
from models.tasks.images import TASK, Picture
from models.weights import locate_part


class DiffusersImages:
    def __init__(
        self, family: Family, controls: Controls, adapters: Adapters, scheduler_config: dict[str, Any], options: Options
    ):
        self.family = family
        self.controls = controls
        self.adapters = adapters
        self.memory = MemoryTable.of(options.memory)
        self.prompts = PromptCache(options.most_prompts)
        self._largest_batch = options.largest_batch
        self._scheduler_config = scheduler_config
        self._samplers = samplers_for(scheduler_config, family.flow)
        self.schedulers = tuple(self._samplers)

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        """
        Raises:
            ValueError: the precision, an option of the variant's `engine`, or the architecture is unknown.
            RuntimeError: the variant needs a GPU, a library or a compiler that is missing.
            WeightsMissing: a ControlNet, or an adapter that is always on, is not on this machine.
        """
        options, dtype, device = Options.of(variant), dtype_of(variant), device_for(variant)
        settings = TASK.settings_of(spec)
        pipe = load_pipeline(weights, options, variant.precision, dtype)
        fused = {weights_file(locate_part(spec, "adapter", name)): weight for name, weight in options.fused.items()}
        fuse_adapters(pipe, fused)
        family = family_of(pipe, spec.limits.context_tokens)
        pixels = settings.width * settings.height
        place(pipe, family.denoiser, options, device, pixels)
        folders = {kind: locate_part(spec, "control", kind) for kind in settings.controls}
        channels_last = wants_channels_last(options, device, family.denoiser)
        adapters = set(settings.adapters) - set(options.fused)
        return cls(
            family,
            Controls.load(folders, dtype, device, channels_last),
            Adapters(pipe, adapters, partial(locate_part, spec, "adapter"), options.most_adapters),
            {**pipe.scheduler.config, **options.scheduler_config},
            options,
        )

    def largest_batch(self, width: int, height: int) -> int:
        """From measurements and the GPU memory that is free now, where both are known."""
        free = free_bytes()
        fitting = None if free is None else self.memory.largest_batch(width * height, free)
        return self._largest_batch if fitting is None else min(fitting, self._largest_batch)

    @out_of_memory_is_an_answer
    def start(self, picture: Picture) -> LatentDenoising:
        """
        Raises:
            ContextLengthExceeded: the prompt or the negative prompt is too long.
            InvalidRequest: this model cannot do the size, the number of steps, a control or an adapter.
        """
        self._check_size(picture)
        self.adapters.check(picture.adapters)
        kinds = self.controls.kinds_of(picture)
        prompt_tokens = self.family.count_tokens(picture.prompt, "prompt")
        self.family.count_tokens(picture.negative_prompt, "negative_prompt")
        scheduler, timesteps = self._schedule(picture)
        generator = torch.Generator("cpu").manual_seed(picture.seed)
        self.adapters.use(picture.adapters)
        with torch.no_grad():
            conditioning, unconditional = self._condition(picture)
            latents, kept, channels = self._first_latents(picture, scheduler, timesteps[0], generator)
            controls = self.controls.pictures(picture.controls, latents.device, self.family.dtype)
        return LatentDenoising(
            picture=picture,
            batch_key=self._batch_key(picture, kinds),
            prompt_tokens=prompt_tokens,
            scheduler=scheduler,
            generator=generator,
            timesteps=timesteps,
            latents=latents,
            conditioning=conditioning,
            unconditional=unconditional,
            kept=kept,
            channels=channels,
            controls=controls,
        )

    @out_of_memory_is_an_answer
    def step(self, batch: Sequence[LatentDenoising]) -> None:
        before = [Restorable.of(denoising) for denoising in batch]
        try:
            self.adapters.use(batch[0].picture.adapters)
            with torch.no_grad():
                for denoising, prediction in zip(batch, self._predict(batch), strict=True):
                    denoising.advance(prediction)
        except BaseException:
            for state in before:
                state.restore()
            raise

    def preview(self, denoising: LatentDenoising) -> np.ndarray:
        latents = denoising.latents if denoising.estimate is None else denoising.estimate
        return self._pixels([latents], [denoising.picture])[0]

    def finish(self, batch: Sequence[LatentDenoising]) -> list[np.ndarray]:
        return self._pixels([each.latents for each in batch], [each.picture for each in batch])

    def measure(self, picture: Picture, batches: Sequence[int]) -> list[Measured]:
        """Measure the memory of batches of pictures like this, for `engine: {memory: …}`. Empty without a GPU."""
        points = []
        for size in batches:
            batch = [self.start(picture) for _ in range(size)]
            step = peak_bytes(partial(self.step, batch))
            decode = peak_bytes(partial(self.finish, batch))
            if step is not None and decode is not None:
                points.append(Measured(picture.pixels, size, step, decode))
        return points

    def _check_size(self, picture: Picture) -> None:
        multiple = self.family.multiple
        for name, side in (("width", picture.width), ("height", picture.height)):
            if side % multiple or not side:
                raise InvalidRequest(f"The {name} of this model's pictures is a multiple of {multiple}.", "size")

    def _batch_key(self, picture: Picture, kinds: tuple[str, ...]) -> Hashable:
        """The size, because latents are stacked; nets and adapters, because they apply to the whole batch."""
        return picture.width, picture.height, kinds, picture.adapters

    def _schedule(self, picture: Picture) -> tuple[Any, torch.Tensor]:
        """A scheduler set to this picture's steps, and its timesteps, on the CPU."""
        scheduler = new_scheduler(self._samplers[picture.scheduler], self._scheduler_config)
        from_image = picture.image is not None
        steps = steps_for(picture.steps, picture.strength) if from_image else picture.steps
        try:
            self.family.set_timesteps(scheduler, steps, picture)
        except (ValueError, IndexError):
            raise InvalidRequest(f"The scheduler {picture.scheduler} cannot make {steps} steps.", "steps") from None
        first = 0
        if from_image:
            first = min(self.family.first_step(steps, picture.strength), steps - 1) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler, scheduler.timesteps[first:]

    def _condition(self, picture: Picture) -> tuple[Conditioning, Conditioning | None]:
        family, adapters = self.family, self.adapters.changing_text(picture.adapters)
        prompt, negative = picture.prompt, picture.negative_prompt
        encoded = self.prompts.get((prompt, False, adapters), partial(family.encode, prompt))
        conditioning = family.describe(picture, encoded)
        if not family.guides(picture.guidance):
            return conditioning, None
        encoded = self.prompts.get((negative, True, adapters), partial(family.encode_negative, negative))
        return conditioning, family.describe(picture, encoded)

    def _first_latents(
        self, picture: Picture, scheduler: Any, timestep: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, KeptPart | None, torch.Tensor | None]:
        """Noise, or a picture with noise added. Random numbers are drawn in the same order as in diffusers' pipelines.

        Returns:
            the latents, the parts of the picture to keep, and the denoiser's additional channels.
        """
        family, vae = self.family, self.family.pipe.vae
        scale = family.pipe.vae_scale_factor
        size = (picture.height // scale, picture.width // scale)
        masks_itself = family.input_channels > family.latent_channels
        whole = picture.mask is not None and picture.strength >= 1
        original = None
        if picture.image is not None and not (whole and masks_itself):
            image = coding.as_tensor(picture.image) * 2 - 1
            original = coding.encode(vae, image.to(family.device), generator, family.latent_dtype)
        shape = (1, family.latent_channels, *size)
        noise = randn_tensor(shape, generator=generator, device=family.device, dtype=family.latent_dtype)
        if original is None or whole:
            latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        else:
            latents = add_noise(scheduler, original, noise, timestep)
        if masks_itself:
            return latents, None, self._mask_channels(picture, size, generator)
        if original is None or picture.mask is None:
            return latents, None, None
        return latents, KeptPart(original, noise, coding.latent_mask(picture.mask, size, noise)), None

    def _mask_channels(self, picture: Picture, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
        """An inpainting denoiser's inputs beside the latents: the mask, and the rest of the picture.

        Without a mask, everything is painted and nothing of the picture is visible.
        """
        mask = np.ones((picture.height, picture.width), np.float32) if picture.mask is None else picture.mask
        image = torch.zeros(1, 3, picture.height, picture.width)
        if picture.image is not None:
            image = (coding.as_tensor(picture.image) * 2 - 1) * (1 - coding.binary_mask(mask))
        family = self.family
        seen = coding.encode(family.pipe.vae, image.to(family.device), generator, family.dtype)
        return torch.cat([coding.latent_mask(mask, size, seen), seen], dim=1)

    def _predict(self, batch: Sequence[LatentDenoising]) -> list[torch.Tensor]:
        """One call of the denoiser, with a row for each picture and a second row for each guided one."""
        guided = [denoising for denoising in batch if denoising.unconditional is not None]
        rows = [*batch, *guided]
        family = self.family
        latents = {id(denoising): denoising.scaled_latents() for denoising in batch}
        stacked = torch.cat([latents[id(row)] for row in rows]).to(family.dtype)
        timesteps = torch.stack([row.timestep.float() for row in rows]).to(stacked.device)
        texts = [denoising.conditioning for denoising in batch]
        conditioning = family.stack(texts + [each.unconditional for each in guided if each.unconditional is not None])
        residuals = self.controls.residuals(rows, stacked, timesteps, conditioning["text"], family.added(conditioning))
        channels = [row.channels for row in rows if row.channels is not None]
        if channels:
            stacked = torch.cat([stacked, torch.cat(channels)], dim=1)
        predicted = family.predict(stacked, timesteps, conditioning, residuals).split(1)
        unconditional = dict(zip(map(id, guided), predicted[len(batch) :], strict=True))
        return [
            guide(prediction, unconditional.get(id(denoising)), denoising.picture.guidance)
            for denoising, prediction in zip(batch, predicted, strict=False)
        ]

    @out_of_memory_is_an_answer
    def _pixels(self, latents: list[torch.Tensor], pictures: list[Picture]) -> list[np.ndarray]:
        with torch.no_grad():
            images = coding.as_pixels(coding.decode(self.family.pipe.vae, torch.cat(latents)))
        return [
            image
            if picture.image is None or picture.mask is None
            else coding.with_kept_pixels(image, picture.image, picture.mask)
            for image, picture in zip(images, pictures, strict=True)
        ]


def guide(prediction: torch.Tensor, unconditional: torch.Tensor | None, guidance: float) -> torch.Tensor:
    """Classifier-free guidance: away from the unconditional prediction, through the conditional one."""
    if unconditional is None:
        return prediction
    return unconditional + guidance * (prediction - unconditional)
