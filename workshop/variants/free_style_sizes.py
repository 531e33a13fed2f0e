"""The style networks of the Magenta wheel, let loose from the one picture size they were exported at.

The network that paints in the style of a picture says that it takes 384 x 384 pixels. No operation in it depends on
that; only the types of its input and output, and the shapes noted between its operations, do. Without them it paints
pictures of any size at that size. It halves them twice, so sides are multiples of 4.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

FIXED = "arbitrary_transform.onnx"


def export(source: Path, target: Path) -> None:
    """Copy the networks in `source` to `target`, the fixed one freed.

    Raises:
        onnx.checker.ValidationError: what came out is no valid network.
    """
    for file in source.glob("*.onnx"):
        shutil.copy(file, target / file.name)
    model = onnx.load(source / FIXED)
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape.dim
        if shape[-1].dim_value == 3:  # a picture: (1, height, width, 3)
            shape[1].dim_param, shape[2].dim_param = "height", "width"
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, target / FIXED)
