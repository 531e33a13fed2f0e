"""A GGUF file as a folder of bf16 safetensors, which vLLM and transformers load.

The weights stay at the precision they were quantized to; only their packing is undone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

CHAT_TEMPLATE = Path(__file__).parents[1] / "starter" / "smollm2_chat_template.jinja"


def unpack(source: Path, target: Path) -> None:
    """Write config, tokenizer and weights of the one GGUF file in `source` to `target`."""
    (gguf,) = source.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
    )
    model = model.to(torch.bfloat16)
    # transformers still takes the model for a quantized one, which it would refuse to save.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def unpack_smollm2(source: Path, target: Path) -> None:
    """As `unpack`, with a chat template that also shows tools, and greedy decoding unless a request says otherwise: at
    the usual temperatures a model this small loses the thread in every third answer."""
    unpack(source, target)
    shutil.copy(CHAT_TEMPLATE, target / "chat_template.jinja")
    file = target / "generation_config.json"
    config = json.loads(file.read_text()) | {"do_sample": False, "temperature": 0.0}
    file.write_text(json.dumps(config, indent=2))
