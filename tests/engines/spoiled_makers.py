"""Makers of artifacts that are wrong on purpose, named in the rows of test_variant_build.py."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def perturbed(source: Path, target: Path, noise: float) -> None:
    """The right network with noise on its weights."""
    shutil.copy(source / "tokenizer.json", target)
    model = onnx.load(source / "model.onnx")
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            spoiled = values + noise * values.std() * random.standard_normal(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(spoiled.astype(np.float32), tensor.name))
    onnx.save(model, target / "model.onnx")


def failing(source: Path, target: Path) -> None:
    (target / "half.onnx").write_bytes(b"half of it")
    raise RuntimeError("the exporter gave up")
