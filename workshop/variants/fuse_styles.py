"""The style networks with fewer and faster operators: the same paintings, except for rounding."""

from __future__ import annotations

from pathlib import Path

import onnx

from workshop.variants import block_convolutions, fuse_norms
from workshop.variants.quantize_onnx import files_of

NAMED = "multistyle26.onnx"


def fuse(source: Path, target: Path) -> None:
    """Rewrite the graphs of `source`, which `free_style_sizes.export` made, into `target`."""
    for file in files_of(source):
        onnx.save(fused(file), target / file.name)


def fused(file: Path) -> onnx.ModelProto:
    """
    Raises:
        ValueError: it is not one of the three networks.
    """
    model = onnx.load(file)
    block_convolutions.block(model)
    if file.name == NAMED:
        fuse_norms.fuse(model)
    onnx.checker.check_model(model)
    return model
