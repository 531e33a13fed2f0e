"""Upscalers as ONNX graphs: pixels in, pixels out."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file

from models.engines.networks.real_esrgan import RRDBNet, SRVGGNetCompact, build
from workshop.variants.unpack_realesrgan import unpack

Network = RRDBNet | SRVGGNetCompact


class Trunk(torch.nn.Module):
    """uint8 pixels (height, width, 3) to features (1, channels, height, width)."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.trunk(pixels.permute(2, 0, 1)[None].float() / 255)


class Draw(torch.nn.Module):
    """Features to uint8 pixels (height * 4, width * 4, 3)."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        large = self.network.draw(features)[0].permute(1, 2, 0)
        return (large.clamp(0, 1) * 255).round().to(torch.uint8)


def export(source: Path, target: Path) -> None:
    """Export the network in `source`, as ncnn ships it, as draw.onnx and, where it has a trunk, trunk.onnx, with
    config.json.

    Raises:
        ValueError: `unpack_realesrgan` does not know the network.
    """
    with TemporaryDirectory() as folder:
        unpacked = Path(folder)
        unpack(source, unpacked)
        config = json.loads((unpacked / "config.json").read_text())
        network = build(config).eval()
        network.load_state_dict(load_file(unpacked / "model.safetensors"))
    trunk, draw = Trunk(network).eval(), Draw(network).eval()
    pixels = torch.randint(0, 256, (24, 40, 3), dtype=torch.uint8)
    if network.trunk_reach:
        export_part(trunk, pixels, target / "trunk.onnx")
        export_part(draw, trunk(pixels).detach(), target / "draw.onnx")
    else:
        export_part(torch.nn.Sequential(trunk, draw).eval(), pixels, target / "draw.onnx")
    reaches = {"trunk_reach": network.trunk_reach, "draw_reach": network.draw_reach}
    (target / "config.json").write_text(json.dumps(config | reaches, indent=2))


def export_part(part: torch.nn.Module, example: torch.Tensor, file: Path) -> None:
    """The first two dimensions of pixels, or the last two of features, may be any."""
    first = 0 if example.ndim == 3 else 2
    height, width = torch.export.Dim("height", min=1, max=4096), torch.export.Dim("width", min=1, max=4096)
    program = torch.onnx.export(
        part,
        (example,),
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({first: height, first + 1: width},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(file)
