"""ONNX Runtime sessions as the catalog's variants want them.

A session may be run by several threads at once: ONNX Runtime keeps what changes in a run apart for each run. What is
not shared is an IOBinding, so each `run_on_device` makes its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession, OrtValue

from models.specs import Precision, VariantSpec

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# What each runs that those before it cannot.
BEHIND = {"cpu": (), "cuda": ("cpu",), "tensorrt": ("cuda", "cpu")}
MISSING = {
    "cpu": "Install onnxruntime",
    "cuda": "Install onnxruntime-gpu in place of onnxruntime, with the CUDA and cuDNN libraries it was built for",
    "tensorrt": "Install onnxruntime-gpu in place of onnxruntime, and TensorRT's libraries (the package tensorrt)",
}
# The fused kernel for CPUs adds up one value at a time, as of ONNX Runtime 1.31, and takes five times as long as the
# addition and the normalising that it stands for.
SLOWER_FUSED = ["SkipLayerNormFusion"]

Values = Mapping[str, np.ndarray | OrtValue]


def open_session_of(variant: VariantSpec, file: Path) -> InferenceSession:
    """`open_session` with a variant's `needs`, and `provider` and `threads` of its `engine`, where it has them.

    Threads are otherwise OMP_NUM_THREADS, which Ray sets to the CPUs of a replica; without that `needs.cpus`.
    """
    threads = variant.engine.get("threads") or int(os.environ.get("OMP_NUM_THREADS") or 0)
    share = max(1, round(variant.needs.cpus))
    in_8_bits = variant.precision is Precision.INT8
    return open_session(file, variant.needs.gpus, threads or share, variant.engine.get("provider"), in_8_bits)


def open_session(
    file: Path, gpus: float = 0, threads: int = 0, provider: str | None = None, in_8_bits: bool = False
) -> onnxruntime.InferenceSession:
    """
    Args:
        gpus: above 0 it runs on a GPU.
        threads: 0 is OMP_NUM_THREADS, or 1 without that.
        provider: a name in PROVIDERS; None is cuda with GPUs and cpu without.
        in_8_bits: multiply in 8 bits what is quantized. Otherwise it is made floats again first.

    Raises:
        RuntimeError: the execution provider is not installed, or does not start.
        ValueError: there is no such provider.
    """
    name = provider or ("cuda" if gpus else "cpu")
    providers = providers_for(name, file)
    if name != "cpu":
        # CUDA's and cuDNN's libraries, where they lie in Python packages and not on the system's path.
        onnxruntime.preload_dlls()
    disabled = SLOWER_FUSED if name == "cpu" else []
    options = options_for(threads, in_8_bits)
    session = InferenceSession(str(file), options, providers=providers, disabled_optimizers=disabled)
    # Without these two lines a provider whose libraries do not load is left out, and the CPU takes over.
    session.disable_fallback()
    if PROVIDERS[name] not in session.get_providers():
        raise RuntimeError(f"ONNX Runtime could not start {PROVIDERS[name]}, which this variant needs. {remedy(name)}")
    return session


def options_for(threads: int, in_8_bits: bool = False) -> onnxruntime.SessionOptions:
    """
    CPUs with AVX2 and no VNNI multiply unsigned with signed 8 bit numbers into 16 bits and clip the sums, without a
    word (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). So what is multiplied in 8
    bits is made unsigned there, which is slower and right; and what is not meant to be, is not.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 1)
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the CPU from the other models of a shared machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Both are off by default. CPUs with VNNI do as before with the first.
    options.add_session_config_entry("session.x64quantprecision" if in_8_bits else "session.disable_quant_qdq", "1")
    return options


def providers_for(name: str, file: Path) -> list[str | tuple[str, dict[str, Any]]]:
    """The execution provider a variant asks for, and those that do what it cannot, with their options.

    Raises:
        RuntimeError, ValueError: as `open_session`.
    """
    if name not in PROVIDERS:
        raise ValueError(f"provider is one of {', '.join(PROVIDERS)}, not {name!r}")
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        raise RuntimeError(
            f"This variant needs ONNX Runtime's {PROVIDERS[name]}, which is not installed. {remedy(name)}"
        )
    return [(PROVIDERS[one], provider_options(one, file)) for one in (name, *BEHIND[name])]


def remedy(name: str) -> str:
    return f"{MISSING[name]}, or choose a CPU variant."


def provider_options(name: str, file: Path) -> dict[str, Any]:
    if name != "tensorrt":
        return {}
    # Building a TensorRT engine takes minutes; the cache is for this GPU and this version, and TensorRT checks both.
    cache = file.parent / "tensorrt"
    if not os.access(file.parent, os.W_OK):  # as in a pod, where the cache lives as long as the pod
        cache = Path(tempfile.gettempdir()) / "medley" / "tensorrt" / "-".join(file.parent.parts[-3:])
    cache.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": True,
    }


def device_of(session: InferenceSession) -> str:
    """Where its values lie: "cuda" or "cpu"."""
    return "cpu" if session.get_providers()[0] == PROVIDERS["cpu"] else "cuda"


def run_on_device(session: InferenceSession, inputs: Values) -> dict[str, OrtValue]:
    """Run with inputs and outputs on the session's device, so that what one session makes is not copied to the next.

    Args:
        inputs: by name. Arrays are copied to the device; an OrtValue is used where it is. A torch tensor becomes one,
            without a copy, by `OrtValue.from_dlpack`.

    Returns:
        outputs by name, on the device. `.numpy()` copies one to the CPU.
    """
    device, binding = device_of(session), session.io_binding()
    for name, value in inputs.items():
        on_device = OrtValue.ortvalue_from_numpy(value, device, 0) if isinstance(value, np.ndarray) else value
        binding.bind_ortvalue_input(name, on_device)
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    session.run_with_iobinding(binding)
    return dict(zip((output.name for output in session.get_outputs()), binding.get_outputs(), strict=True))
