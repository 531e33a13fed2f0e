"""LoRAs: many small changes to one base model, loaded on first use and switched between batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from models.errors import InvalidRequest
from models.tasks.images import Adapter

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "lora_te")


class Adapters:
    """
    Args:
        folder_of: the folder of an adapter, by name.
        most: how many stay loaded; the least recently used one is dropped.
    """

    def __init__(self, pipe: Any, names: Iterable[str], folder_of: Callable[[str], Path], most: int):
        self.pipe = pipe
        self.most = most
        # peft uses these as module names, which must not have dots
        self._ids = {name: f"adapter_{number}" for number, name in enumerate(sorted(names))}
        self._folder_of = folder_of
        self._reaches_text: dict[str, bool] = {}
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._active: tuple[Adapter, ...] = ()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the loaded ones, least recently used first."""
        return tuple(self._loaded)

    def check(self, adapters: Sequence[Adapter]) -> None:
        """
        Raises:
            InvalidRequest: one is unknown or named twice, or there are more than can be loaded.
        """
        names = [adapter.name for adapter in adapters]
        if unknown := set(names) - set(self._ids):
            there = ", ".join(sorted(self._ids)) or "none"
            raise InvalidRequest(f"This model has no adapter {min(unknown)[:50]!r}; it has {there}.", "adapters")
        if len(set(names)) < len(names):
            raise InvalidRequest("Each adapter can be used once in a request.", "adapters")
        if len(names) > self.most:
            raise InvalidRequest(f"A request can use {self.most} adapters at most.", "adapters")

    def changing_text(self, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
        """Those that change the text encoders."""
        return tuple(adapter for adapter in adapters if self._changes_text(adapter.name))

    def use(self, adapters: tuple[Adapter, ...]) -> None:
        """Run the model with exactly these, at their weights; with none, the bare model."""
        if adapters == self._active:
            return
        for adapter in adapters:
            self._load(adapter.name, keep={other.name for other in adapters})
        if adapters:
            self.pipe.enable_lora()
            names = [self._ids[adapter.name] for adapter in adapters]
            self.pipe.set_adapters(names, [adapter.weight for adapter in adapters])
        elif self._loaded:
            self.pipe.disable_lora()
        self._active = adapters

    def _load(self, name: str, keep: set[str]) -> None:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        while len(self._loaded) >= self.most:
            oldest = next(loaded for loaded in self._loaded if loaded not in keep)
            self.pipe.delete_adapters(self._ids[oldest])
            del self._loaded[oldest]
        self._active = ()  # loading activates the new one, even if it fails
        file = weights_file(self._folder_of(name))
        self.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name=self._ids[name])
        self._loaded[name] = None

    def _changes_text(self, name: str) -> bool:
        if name not in self._reaches_text:
            with safe_open(weights_file(self._folder_of(name)), framework="pt") as tensors:
                names = tensors.keys()
            self._reaches_text[name] = any(key.startswith(TEXT_ENCODERS) for key in names)
        return self._reaches_text[name]


def weights_file(folder: Path) -> Path:
    """The LoRA file of a folder.

    Raises:
        FileNotFoundError: there is none, or there are several without the usual name.
    """
    files = sorted(folder.glob("*.safetensors"))
    usual = folder / "pytorch_lora_weights.safetensors"
    if usual in files:
        return usual
    if len(files) == 1:
        return files[0]
    raise FileNotFoundError(f"{folder} holds {len(files)} .safetensors files; a LoRA is one of them")
