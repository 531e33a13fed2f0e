"""(task, backend) -> engine class. Importing this imports no engine."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from models.specs import Backend, ModelSpec, Task, VariantSpec

ENGINES: dict[tuple[Task, Backend], str] = {
    (Task.CHAT, Backend.VLLM): "models.engines.chat_vllm:VLLMChat",
    (Task.CHAT, Backend.TRANSFORMERS): "models.engines.chat_transformers:TransformersChat",
    (Task.CHAT, Backend.FAKE): "models.tasks.chat:FakeChat",
    (Task.EMBEDDINGS, Backend.ONNX): "models.engines.embeddings_onnx:OnnxEmbeddings",
    (Task.EMBEDDINGS, Backend.TORCH): "models.engines.embeddings_torch:TorchEmbeddings",
    (Task.EMBEDDINGS, Backend.FAKE): "models.tasks.embeddings:FakeEmbeddings",
    (Task.IMAGES, Backend.DIFFUSERS): "models.engines.images_diffusers:DiffusersImages",
    (Task.IMAGES, Backend.ONNX): "models.engines.images_onnx:OnnxImages",
    (Task.IMAGES, Backend.FAKE): "models.tasks.images:FakeImages",
    (Task.UPSCALING, Backend.TORCH): "models.engines.upscaling_torch:TorchUpscaling",
    (Task.UPSCALING, Backend.ONNX): "models.engines.upscaling_onnx:OnnxUpscaling",
    (Task.UPSCALING, Backend.FAKE): "models.tasks.upscaling:FakeUpscaling",
    (Task.STYLES, Backend.ONNX): "models.engines.styles_onnx:OnnxStyles",
    (Task.STYLES, Backend.FAKE): "models.tasks.styles:FakeStyles",
}


def engine_class(task: Task, backend: Backend) -> type[Any]:
    """Import the engine of a task and backend.

    Raises:
        KeyError: there is none.
        ImportError: the backend's library is not installed.
    """
    if (task, backend) not in ENGINES:
        backends = ", ".join(known for of_task, known in ENGINES if of_task is task)
        raise KeyError(f"{task} has no engine for {backend}; it has {backends}")
    return import_string(ENGINES[task, backend])


def load_engine(spec: ModelSpec, variant: VariantSpec) -> Any:
    """Load a model in this process: find its weights, import its engine, build it. Blocks for as long as that takes.

    Raises:
        WeightsMissing: the weights are not on this machine.
    """
    from models.weights import locate  # only here: a client of the registry may not need weights

    return engine_class(spec.task, variant.backend).load(spec, variant, locate(spec, variant))


def import_string(path: str) -> Any:
    """The object that ``module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
