"""ONNX Runtime sessions as the catalog's variants want them."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime


def open_session(file: Path, gpus: float = 0, threads: int = 0) -> onnxruntime.InferenceSession:
    """
    Args:
        gpus: above 0 it runs on a GPU.
        threads: 0 is OMP_NUM_THREADS, which Ray sets to the CPUs of a replica; without that 1.

    Raises:
        RuntimeError: the execution provider is absent.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 1)
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the CPU from the other models of a shared machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=providers_for(gpus))


def providers_for(gpus: float) -> list[str]:
    """The execution provider a variant asks for. Raises RuntimeError when it is absent: never a silent fall-back."""
    wanted = "CUDAExecutionProvider" if gpus else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeError(
            f"This variant needs ONNX Runtime's {wanted}, which is not installed. Install onnxruntime-gpu, or choose a "
            "CPU variant."
        )
    return [wanted]
