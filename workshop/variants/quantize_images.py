"""ONNX forms of image models with weights and activations of 8 bits, for CPUs.

The UNet and the autoencoder are quantized statically: the range of each tensor is taken from pictures that the model
makes, at every step of their making, because noise and a nearly finished picture have different ranges. Weights have a
scale for each output channel. The text encoder runs once a prompt: its weights are stored in 8 bits, and what flows
through it is quantized by its own range each time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from models.engines.images_onnx.engine import OnnxImages, Options, load_pipeline
from models.engines.images_onnx.parts import MODEL, Graph
from models.engines.onnx_session import open_session
from models.tasks.images import Picture
from workshop.evaluation.image_prompts import prompts as prompts_of

MULTIPLIED = ["Conv", "MatMul", "Gemm"]
STATIC = ("unet", "vae_decoder", "vae_encoder")
# How many first and last convolutions of each graph stay unquantized. They have few weights, but all information passes
# through them. The last ones of a decoder work at full size: quantized, they leave a grain on even colours.
KEPT = {"unet": (1, 1), "vae_decoder": (0, 3), "vae_encoder": (1, 1)}

Feed = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The pictures from which ranges are measured.

    Attributes:
        prompts: a set of workshop/evaluation/image_prompts.py.
        pictures: how many, each made in all its steps and encoded again.
        width, height, steps, guidance, scheduler, scheduler_config: as the model's row in the catalog has them.
    """

    prompts: str
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    pictures: int = 8


def quantize(source: Path, target: Path, **calibration: Any) -> None:
    """Quantize the graphs in `source`, as workshop/variants/export_images.py writes them in fp32.

    Args:
        calibration: the fields of Calibration.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(f"{MODEL}*", "manifest.json"), dirs_exist_ok=True)
    feeds = record(source, Calibration(**calibration))
    for name in STATIC:
        quantize_with_ranges(source / name, target / name, feeds[name], KEPT[name])
    for folder in source.glob("text_encoder*"):
        quantize_weights(folder, target / folder.name)


def record(source: Path, wanted: Calibration) -> dict[str, list[Feed]]:
    """Make pictures with the graphs as they are, and keep what goes into each."""
    pipe = load_pipeline(source, partial(open_session, threads=torch.get_num_threads()))
    vae = pipe.vae
    recorders = [Recorder(graph) for graph in (pipe.unet.graph, vae.decoder, vae.encoder)]
    pipe.unet.graph, vae.decoder, vae.encoder = recorders
    engine = OnnxImages.over(pipe, pipe.tokenizer.model_max_length, Options(scheduler_config=wanted.scheduler_config))
    for seed, prompt in enumerate(prompts_of(wanted.prompts, evaluation=False, count=wanted.pictures)):
        picture = Picture(
            prompt, "", wanted.width, wanted.height, wanted.steps, wanted.guidance, wanted.scheduler, seed
        )
        denoising = engine.start(picture)
        while denoising.step < denoising.steps:
            engine.step([denoising])
        (pixels,) = engine.finish([denoising])
        vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
    return {name: recorder.feeds for name, recorder in zip(STATIC, recorders, strict=True)}


class Recorder:
    """A graph that records its inputs."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.dtype, self.device = graph.dtype, graph.device
        self.feeds: list[Feed] = []

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        self.feeds.append({name: inputs[name].to(dtype).numpy().copy() for name, dtype in self.graph.inputs.items()})
        return self.graph(**inputs)


class Feeds(CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feed]):
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return next(self._feeds, None)


def quantize_with_ranges(source: Path, target: Path, feeds: Sequence[Feed], kept: tuple[int, int]) -> None:
    """
    Args:
        kept: how many of the first and of the last convolutions stay as they are.
    """
    with tempfile.TemporaryDirectory() as scratch:  # the quantizer writes next to its input
        model = Path(shutil.copytree(source, Path(scratch) / "float")) / MODEL
        quantize_static(
            model,
            target / MODEL,
            Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=MULTIPLIED,
            nodes_to_exclude=outermost(model, *kept),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True, "DedicatedQDQPair": True},
        )


def quantize_weights(source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(shutil.copytree(source, Path(scratch) / "float")) / MODEL
        quantize_dynamic(
            model,
            target / MODEL,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )


def outermost(model: Path, first: int, last: int) -> list[str]:
    """Names of the first and last convolutions of a graph, whose nodes are in the order they are computed in."""
    nodes = onnx.load(model, load_external_data=False).graph.node
    names = [node.name for node in nodes if node.op_type == "Conv"]
    return names[:first] + names[len(names) - last :]
