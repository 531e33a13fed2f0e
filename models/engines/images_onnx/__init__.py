"""Images on ONNX Runtime: Stable Diffusion 1, 2 and XL as workshop/variants/export_images.py writes them.

parts.py    graphs as torch modules that answer as diffusers' own do
engine.py   the pipeline of such parts, in the engine of models/engines/images_diffusers: its batching, schedulers,
            masks and previews are those of every image model
"""

from models.engines.images_onnx.engine import OnnxImages as Engine

__all__ = ["Engine"]
