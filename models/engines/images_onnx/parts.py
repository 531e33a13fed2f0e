"""ONNX graphs as torch modules that behave like the networks of diffusers and transformers they were exported from.

Tensors stay on their device: nothing is copied on the way in or out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from onnxruntime import InferenceSession, OrtValue
from transformers import CLIPTextConfig

from models.engines.onnx_session import device_of, run_on_device

MODEL = "model.onnx"
DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(int64)": torch.int64}

OpenSession = Callable[[Path], InferenceSession]


class Graph:
    """A session with torch tensors as inputs and outputs.

    Attributes:
        inputs: the types of its inputs by name. dtype: the type of its first output.
    """

    def __init__(self, session: InferenceSession):
        self.session = session
        self.device = torch.device(device_of(session))
        self.inputs = {each.name: DTYPES[each.type] for each in session.get_inputs()}
        self.dtype = DTYPES[session.get_outputs()[0].type]

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Raises:
            torch.OutOfMemoryError: like torch's own networks.
        """
        given = {name: inputs[name].to(self.device, dtype).contiguous() for name, dtype in self.inputs.items()}
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the runtime uses its own stream
        try:
            made = run_on_device(self.session, {name: OrtValue.from_dlpack(tensor) for name, tensor in given.items()})
        except Exception as error:  # the runtime has no separate class for this error
            if "allocate" in str(error) or "bad_alloc" in str(error):
                raise torch.OutOfMemoryError from None
            raise
        return {name: torch.from_dlpack(value) for name, value in made.items()}


class Part(torch.nn.Module):
    """A part of a pipeline: the attributes that pipelines use beside calling it."""

    def __init__(self, config: Any, graph: Graph):
        super().__init__()
        self.config = config
        self.dtype = graph.dtype
        self.device = graph.device


class OnnxTextEncoder(Part):
    """Returns the graph's outputs by index, and the last but one of the hidden states."""

    def __init__(self, folder: Path, start: OpenSession):
        self.graph = Graph(start(folder / MODEL))
        super().__init__(CLIPTextConfig.from_pretrained(folder), self.graph)

    def forward(self, input_ids: torch.Tensor, **unused: Any) -> TextStates:
        return TextStates(self.graph(input_ids=input_ids))


class TextStates:
    def __init__(self, outputs: Mapping[str, torch.Tensor]):
        self._outputs = outputs

    def __getitem__(self, index: int) -> torch.Tensor:
        return list(self._outputs.values())[index]

    @property
    def hidden_states(self) -> tuple[torch.Tensor, None]:
        return self._outputs["hidden_states"], None


class OnnxUNet(Part):
    def __init__(self, folder: Path, start: OpenSession):
        self.graph = Graph(start(folder / MODEL))
        super().__init__(config_in(folder), self.graph)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        added_cond_kwargs: Mapping[str, torch.Tensor] | None = None,
        **unused: Any,
    ) -> tuple[torch.Tensor]:
        inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": encoder_hidden_states}
        if timestep_cond is not None:
            inputs["timestep_cond"] = timestep_cond
        return (self.graph(**inputs, **(added_cond_kwargs or {}))["out_sample"],)


class OnnxAutoencoder(Part):
    """
    Args:
        folder: the pipeline's. The graphs are in two of its folders and their configuration in a third.
    """

    def __init__(self, folder: Path, start: OpenSession):
        self.encoder = Graph(start(folder / "vae_encoder" / MODEL))
        self.decoder = Graph(start(folder / "vae_decoder" / MODEL))
        super().__init__(config_in(folder / "vae"), self.decoder)
        self.is_variational = self.config["_class_name"] == "AutoencoderKL"

    def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
        latents = self.encoder(sample=pixels)["latents"]
        if self.is_variational:
            return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(latents))
        return SimpleNamespace(latents=latents)

    def decode(self, latents: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (self.decoder(latent_sample=latents)["sample"],)


def config_in(folder: Path) -> Any:
    """A configuration like those of diffusers' networks."""
    return FrozenDict(json.loads((folder / "config.json").read_text()))
