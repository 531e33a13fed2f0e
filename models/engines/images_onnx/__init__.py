"""Images on ONNX Runtime: Stable Diffusion 1, 2 and XL as workshop/variants/export_images.py writes them.

parts.py    graphs as torch modules that behave like diffusers' own
engine.py   a pipeline of such parts in the engine of models/engines/images_diffusers, which brings batching,
            schedulers, masks and previews
"""

from models.engines.images_onnx.engine import OnnxImages as Engine

__all__ = ["Engine"]
