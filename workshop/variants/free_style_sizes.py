"""Removes the fixed picture size from the exported style networks of the Magenta wheel.

The network that paints in the style of a picture declares an input of 384 x 384 pixels. No operation depends on that,
only the types of its input and output and the noted shapes in between. Without them it paints pictures of any size. It
halves them twice, so their sides must be multiples of 4.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

FIXED = "arbitrary_transform.onnx"


def export(source: Path, target: Path) -> None:
    """Copy the networks in `source` to `target`, without the fixed size.

    Raises:
        onnx.checker.ValidationError: the result is not a valid network.
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
