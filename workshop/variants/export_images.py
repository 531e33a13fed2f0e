"""Stable Diffusion 1, 2 and XL, and models made like them, as ONNX graphs in the layout that Optimum knows too:

    text_encoder/model.onnx, text_encoder_2/model.onnx    token ids -> states
    unet/model.onnx                                       one prediction
    vae_encoder/model.onnx, vae_decoder/model.onnx        pixels -> latents -> pixels

beside the configurations of the parts, the tokenizers and the scheduler. Batch, width and height are free in all of
them. What schedulers, guidance and masks do is no part of a graph, so all of it works as with the torch form.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch.export import Dim

MODEL = "model.onnx"
# The first that has attention and group normalisation as operations of their own: a runtime can then choose its fused
# kernels, and never needs the whole matrix of attention weights in memory.
OPSET = 23
# What the graphs are traced for: up to here torch knows that no tensor has more than 2**31 numbers, where it would
# compute otherwise. Rows are predictions: two for a guided picture.
MOST_ROWS = 32
MOST_LATENTS = 256  # along a side
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class TextEncoder(torch.nn.Module):
    """A CLIP text encoder, with the states that pipelines take: the last for Stable Diffusion 1 and 2, the last but
    one for XL, with the projected end of the text where the encoder has it."""

    def __init__(self, encoder: torch.nn.Module, hidden_states: bool):
        super().__init__()
        self.encoder = encoder
        self.hidden_states = hidden_states

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Token ids (batch, tokens) to (batch, tokens or nothing, channels), and (batch, tokens, channels)."""
        states = self.encoder(input_ids, output_hidden_states=self.hidden_states)
        return (states[0], states.hidden_states[-2]) if self.hidden_states else (states[0],)


class Denoiser(torch.nn.Module):
    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet
        # Latents that cannot be halved as often as the network does are upsampled to the size of the layer they are
        # joined with. The network does so only when it must, and a graph cannot choose: it always does, for which it
        # is told that its latents must be divisible by more than they can be. The result is the same where both hold.
        unet.num_upsamplers = MOST_LATENTS.bit_length() + 1

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *,
        timestep_cond: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(batch, channels, height, width), (batch,) and (batch, tokens, channels) to (batch, channels, height, width).

        The rest is for models that have it: the guidance as an input; of XL the pooled text and the sizes.
        """
        added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.unet(
            sample,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            timestep_cond=timestep_cond,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


class Encoder(torch.nn.Module):
    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        """Pixels, -1 to 1, to latents; to the means and logarithms of variances that latents are drawn with, where the
        autoencoder is a variational one."""
        encoded = self.vae.encode(sample)
        return encoded.latent_dist.parameters if hasattr(encoded, "latent_dist") else encoded.latents


class Decoder(torch.nn.Module):
    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        """Latents to pixels, -1 to 1."""
        return self.vae.decode(latent_sample, return_dict=False)[0]


def export(source: Path, target: Path, unet: str = "unet", precision: str = "fp32") -> None:
    """Export the pipeline in `source`, a folder in diffusers' format.

    Args:
        unet: the subfolder of the UNet: another one than `unet` for a distilled form beside the original.
        precision: fp32 or fp16, of all parts but an autoencoder that overflows in half precision.

    Raises:
        ValueError: its denoiser is not a UNet, or the precision is another.
    """
    if precision not in DTYPES:
        raise ValueError(f"ONNX forms of image models are {' or '.join(DTYPES)}, not {precision}")
    index = json.loads((source / "model_index.json").read_text())
    if index.get("unet", [None])[0] is None:
        raise ValueError(f"{index['_class_name']} has no UNet; only pipelines with one are exported")
    pipe = load_pipeline(source, unet, DTYPES[precision])
    copy_configurations(pipe, source, target)
    export_text_encoders(pipe, target)
    export_unet(pipe.unet, pipe, target / "unet")
    export_autoencoder(pipe.vae, pipe.vae_scale_factor, target)


def load_pipeline(source: Path, unet: str, dtype: torch.dtype) -> Any:
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    network = UNet2DConditionModel.from_pretrained(source, subfolder=unet, dtype=dtype, local_files_only=True)
    index = json.loads((source / "model_index.json").read_text())
    parts = {name: part for name, part in parts.items() if name in index}
    pipe: Any = DiffusionPipeline.from_pretrained(source, unet=network, dtype=dtype, local_files_only=True, **parts)
    if dtype is torch.float16 and pipe.vae.config.get("force_upcast"):
        pipe.vae.to(torch.float32)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def copy_configurations(pipe: Any, source: Path, target: Path) -> None:
    shutil.copy(source / "model_index.json", target)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            save_configuration(part, target / name)
        elif (source / name).is_dir():
            shutil.copytree(source / name, target / name)


def save_configuration(part: Any, folder: Path) -> None:
    """With all defaults filled in, for an engine without the class that knows them; and without where it came from."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    config = {"_class_name": type(part).__name__, **config}
    config.pop("_name_or_path", None)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def export_text_encoders(pipe: Any, target: Path) -> None:
    encoders = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    for name, tokenizer in encoders.items():
        if (encoder := getattr(pipe, name, None)) is None:
            continue
        length = min(getattr(pipe, tokenizer).model_max_length, encoder.config.max_position_embeddings)
        ids = torch.arange(2 * length).view(2, length) % encoder.config.vocab_size
        xl = hasattr(pipe, "text_encoder_2")
        outputs = ["text_embeds" if "Projection" in type(encoder).__name__ else "last_hidden_state"]
        save(
            TextEncoder(encoder, hidden_states=xl),
            {"input_ids": (ids, {0: batch()})},
            [*outputs, *(["hidden_states"] if xl else [])],
            target / name,
        )


def export_unet(unet: UNet2DConditionModel, pipe: Any, folder: Path) -> None:
    config, dtype = unet.config, unet.dtype
    pictures, channels = batch(), config["in_channels"]
    tokens = min(pipe.tokenizer.model_max_length, pipe.text_encoder.config.max_position_embeddings)
    smallest = 2 ** len(config["block_out_channels"])
    height, width = (Dim(side, min=smallest, max=MOST_LATENTS) for side in ("height", "width"))
    inputs: dict[str, tuple[torch.Tensor, dict[int, Any]]] = {
        # of odd sizes: sizes that the network would see as special are not taken for all
        "sample": (
            torch.randn(2, channels, 3 * smallest + 1, 4 * smallest + 3, dtype=dtype),
            {0: pictures, 2: height, 3: width},
        ),
        "timestep": (torch.tensor([10.0, 500.0]), {0: pictures}),
        "encoder_hidden_states": (
            torch.randn(2, tokens, config["cross_attention_dim"], dtype=dtype),
            {0: pictures},
        ),
    }
    if config["time_cond_proj_dim"] is not None:
        inputs["timestep_cond"] = (torch.randn(2, config["time_cond_proj_dim"], dtype=dtype), {0: pictures})
    if config["addition_embed_type"] == "text_time":
        pooled = pipe.text_encoder_2.config.projection_dim
        inputs["text_embeds"] = (torch.randn(2, pooled, dtype=dtype), {0: pictures})
        inputs["time_ids"] = (torch.tensor([[512.0, 512, 0, 0, 512, 512]] * 2, dtype=dtype), {0: pictures})
    save(Denoiser(unet), inputs, ["out_sample"], folder)


def export_autoencoder(vae: Any, scale: int, target: Path) -> None:
    pictures, channels = batch(), vae.config["latent_channels"]
    height, width = (Dim(side, min=2, max=MOST_LATENTS) for side in ("height", "width"))
    latents = torch.randn(2, channels, 12, 14, dtype=vae.dtype)
    pixels = torch.rand(2, 3, 12 * scale, 14 * scale, dtype=vae.dtype) * 2 - 1
    axes = {0: pictures, 2: scale * height, 3: scale * width}
    save(Encoder(vae), {"sample": (pixels, axes)}, ["latents"], target / "vae_encoder")
    axes = {0: pictures, 2: height, 3: width}
    save(Decoder(vae), {"latent_sample": (latents, axes)}, ["sample"], target / "vae_decoder")


def batch() -> Any:
    return Dim("batch", min=1, max=MOST_ROWS)


def save(
    network: torch.nn.Module,
    inputs: Mapping[str, tuple[torch.Tensor, dict[int, Any]]],
    outputs: list[str],
    folder: Path,
) -> None:
    """Trace a network with examples of its inputs and write its graph.

    Args:
        inputs: name -> an example, and its axes that are free. outputs: names.
    """
    folder.mkdir(exist_ok=True)
    program = torch.onnx.export(
        network.eval(),
        kwargs={name: example for name, (example, _) in inputs.items()},
        input_names=list(inputs),
        output_names=outputs,
        dynamic_shapes={name: axes for name, (_, axes) in inputs.items()},
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.save(folder / MODEL, external_data=True)  # beside the graph: a file of its format has 2 GB at most
