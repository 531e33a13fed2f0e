"""ControlNets: copies of a UNet's first half that read a picture and add to the UNet's activations.

All of a model's ControlNets are loaded with it. So a replica's memory is known when it is placed, a missing one is
found before the first request, and no request waits for gigabytes to load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import ControlNetModel

from models.engines.images_diffusers.denoising import LatentDenoising
from models.engines.images_diffusers.families.family import Residuals
from models.engines.images_diffusers.latents import as_tensor
from models.errors import InvalidRequest
from models.tasks.images import ControlPicture, Picture


class Controls:
    def __init__(self, nets: Mapping[str, Any]):
        self.nets = nets

    @classmethod
    def load(cls, folders: Mapping[str, Path], dtype: torch.dtype, device: str, channels_last: bool) -> Controls:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return cls(
            {
                kind: cast("Any", ControlNetModel)
                .from_pretrained(folder, dtype=dtype, local_files_only=True)
                .eval()
                .to(device=device, memory_format=layout)
                for kind, folder in folders.items()
            }
        )

    def kinds_of(self, picture: Picture) -> tuple[str, ...]:
        """The kinds that a picture uses, in the order in which they are applied.

        Raises:
            InvalidRequest: the model does not have one of them, or one is there twice.
        """
        kinds = [control.kind for control in picture.controls]
        if unknown := set(kinds) - set(self.nets):
            there = ", ".join(sorted(self.nets)) or "none"
            raise InvalidRequest(f"This model has no control {min(unknown)[:50]!r}; it has {there}.", "controls")
        if len(set(kinds)) < len(kinds):
            raise InvalidRequest("Each kind of control can be used once in a request.", "controls")
        return tuple(sorted(kinds))

    def pictures(
        self, controls: Sequence[ControlPicture], device: torch.device, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        return {control.kind: as_tensor(control.pixels).to(device, dtype) for control in controls}

    def residuals(
        self,
        rows: Sequence[LatentDenoising],
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        added: dict[str, torch.Tensor] | None,
    ) -> Residuals | None:
        """The sum of the nets' residuals. All rows use the same kinds, each with its own pictures."""
        total: Residuals | None = None
        for kind in sorted(rows[0].controls):
            images = torch.cat([row.controls[kind] for row in rows])
            scale = latents.new_tensor([_weight(row.picture, kind) for row in rows]).view(-1, 1, 1, 1)
            down, middle = self.nets[kind](
                latents,
                timesteps,
                encoder_hidden_states=text,
                controlnet_cond=images,
                added_cond_kwargs=added,
                return_dict=False,
            )
            down, middle = [layer * scale for layer in down], middle * scale
            if total is not None:
                down, middle = [a + b for a, b in zip(total[0], down, strict=True)], total[1] + middle
            total = down, middle
        return total


def _weight(picture: Picture, kind: str) -> float:
    return next(control.weight for control in picture.controls if control.kind == kind)
