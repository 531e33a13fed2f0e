"""Images on diffusers: Stable Diffusion 1, 2, XL and 3.5, Flux and Z-Image, on a CPU or a GPU.

loading.py       a folder in diffusers' format -> a pipeline, placed on its device
quantization.py  weights of 8 and 4 bits
families/        what differs between architectures: prompts, schedule, the denoiser's call
schedulers.py    the samplers by name
denoising.py     the state of one picture between two steps
latents.py       pictures <-> latents, masks
controls.py      ControlNets
adapters.py      LoRAs, many over one model
memory.py        the memory of a batch, and recovery when it ran out
engine.py        start, step, preview, finish
"""

from models.engines.images_diffusers.engine import DiffusersImages as Engine

__all__ = ["Engine"]
