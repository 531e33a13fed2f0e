"""Opens ONNX Runtime sessions with the settings of the catalog's variants.

Several threads may run one session at once, because ONNX Runtime keeps the state of each run separate. Only an
IOBinding cannot be shared, so each `run_on_device` makes its own.
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
# As of ONNX Runtime 1.31, the fused CPU kernel adds one value at a time. It takes five times as long as the separate
# addition and normalisation that it replaces.
SLOWER_FUSED = ["SkipLayerNormFusion"]

Values = Mapping[str, np.ndarray | OrtValue]


def open_session_of(variant: VariantSpec, file: Path) -> InferenceSession:
    """`open_session` with a variant's `needs`, and with `provider` and `threads` from its `engine`, if set.

    The default for threads is OMP_NUM_THREADS, which Ray sets to a replica's CPUs, or else `needs.cpus`.
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
        gpus: the session runs on a GPU if this is above 0.
        threads: 0 stands for OMP_NUM_THREADS, or 1 if that is not set.
        provider: a name in PROVIDERS. None: cuda with GPUs, else cpu.
        in_8_bits: multiply quantized values in 8 bits. Otherwise they are converted to floats first.

    Raises:
        RuntimeError: the execution provider is not installed or does not start.
        ValueError: there is no such provider.
    """
    name = provider or ("cuda" if gpus else "cpu")
    providers = providers_for(name, file)
    if name != "cpu":
        # Loads CUDA's and cuDNN's libraries from Python packages when they are not on the system's path.
        onnxruntime.preload_dlls()
    disabled = SLOWER_FUSED if name == "cpu" else []
    options = options_for(threads, in_8_bits)
    session = InferenceSession(str(file), options, providers=providers, disabled_optimizers=disabled)
    # Without these two lines, ONNX Runtime silently falls back to the CPU when a provider's libraries do not load.
    session.disable_fallback()
    if PROVIDERS[name] not in session.get_providers():
        raise RuntimeError(f"ONNX Runtime could not start {PROVIDERS[name]}, which this variant needs. {remedy(name)}")
    return session


def options_for(threads: int, in_8_bits: bool = False) -> onnxruntime.SessionOptions:
    """
    CPUs with AVX2 but no VNNI multiply unsigned and signed 8-bit numbers into 16 bits and silently clip the sums
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). There, products in 8 bits use
    unsigned numbers only, which is slower but correct. Without `in_8_bits`, no product is in 8 bits.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 1)
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take CPU time from other models on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Both are off by default. The first has no effect on CPUs with VNNI.
    options.add_session_config_entry("session.x64quantprecision" if in_8_bits else "session.disable_quant_qdq", "1")
    return options


def providers_for(name: str, file: Path) -> list[str | tuple[str, dict[str, Any]]]:
    """The execution provider that a variant asks for and its fallbacks, with their options.

    Raises:
        RuntimeError, ValueError: see `open_session`.
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
    # Building a TensorRT engine takes minutes. The cache is valid for one GPU and version, which TensorRT checks.
    cache = file.parent / "tensorrt"
    if not os.access(file.parent, os.W_OK):  # in a pod, for example; the cache then lasts as long as the pod
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
    """The device of a session's values: "cuda" or "cpu"."""
    return "cpu" if session.get_providers()[0] == PROVIDERS["cpu"] else "cuda"


def run_on_device(session: InferenceSession, inputs: Values) -> dict[str, OrtValue]:
    """Run with inputs and outputs on the session's device, so that nothing is copied between two sessions.

    Args:
        inputs: by name. Arrays are copied to the device. An OrtValue is used in place; `OrtValue.from_dlpack` makes
            one from a torch tensor without a copy.

    Returns:
        outputs by name, on the device; `.numpy()` copies one to the CPU.
    """
    device, binding = device_of(session), session.io_binding()
    for name, value in inputs.items():
        on_device = OrtValue.ortvalue_from_numpy(value, device, 0) if isinstance(value, np.ndarray) else value
        binding.bind_ortvalue_input(name, on_device)
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    session.run_with_iobinding(binding)
    return dict(zip((output.name for output in session.get_outputs()), binding.get_outputs(), strict=True))
