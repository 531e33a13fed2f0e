"""ONNX graphs in fewer bits: half precision for GPUs, and 8 bits for networks of convolutions."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from models.weights import FIDELITY, MANIFEST

Feed = dict[str, np.ndarray]
# Sums over a whole picture exceed the largest half, 65504.
SUMMING = ["InstanceNormalization", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceL2", "Pow"]
# Otherwise rare extremes would use up most of the 255 steps.
PERCENTILE = 99.999


def half(source: Path, target: Path) -> None:
    """Every graph of `source` with weights and work in fp16; inputs and outputs stay as they are. For GPUs."""
    for file in files_of(source):
        if file.suffix != ".onnx":
            shutil.copy(file, target)
            continue
        blocked = [*DEFAULT_OP_BLOCK_LIST, *SUMMING]
        model = onnx.load(file)
        if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            shutil.copy(file, target)  # already in 8 bits
            continue
        onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked), target / file.name)


def files_of(folder: Path) -> list[Path]:
    """The files of an artifact, without Medley's notes about it."""
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name not in (MANIFEST, FIDELITY))


class Feeds(CalibrationDataReader):
    def __init__(self, feeds: Iterable[Feed]):
        self.rest: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:  # type: ignore[override]
        return next(self.rest, None)


def quantize_convolutions(
    model: onnx.ModelProto, feeds: Iterable[Feed], excluded: Collection[str] = (), also: Collection[str] = ()
) -> onnx.ModelProto:
    """8 bits for the weights of convolutions, with a scale for each channel, and for what comes in and goes out.

    Weights are signed and the rest unsigned: that is what ONNX Runtime has fast kernels for on x86.

    Args:
        feeds: inputs of the network, from which the scales of all between are taken.
        excluded: names of nodes that stay as they are. also: other kinds of operators to quantize.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, plain)
        quantize_static(
            plain,
            quantized,
            Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", *also],
            nodes_to_exclude=list(excluded),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )
        return onnx.load(quantized)
