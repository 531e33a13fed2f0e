"""Image models of a few thousand random weights, in diffusers' folder format: real architectures, made in a second.

Random networks paint grey, and then every wrong picture would look like the right one. So the last layers are scaled
until pictures have contrast and depend on seed, prompt and guidance; a test of the tests checks that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from models.engines.images_diffusers.denoising import LatentDenoising
from models.engines.images_diffusers.engine import DiffusersImages
from models.specs import ModelSpec
from models.tasks.images import Picture

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def spec(folder: Path, context: int = 77, **more: Any) -> ModelSpec:
    """A catalog row for a folder, with one variant, `cpu`.

    Args:
        more: `engine`, its variant's options; `controls` and `adapters`, of its settings; or fields of the row.
    """
    engine = more.pop("engine", {})
    parts = {name: more.pop(name) for name in ("controls", "adapters") if name in more}
    return ModelSpec.model_validate(
        {
            "id": "tiny",
            "task": "images",
            "title": "Tiny",
            "owner": "nobody",
            "licence": "MIT",
            "source": {"kind": "folder", "path": folder},
            "limits": {"context_tokens": context},
            "settings": {
                "width": 32,
                "height": 32,
                "smallest": 16,
                "largest": 64,
                "most_megapixels": 1,
                "steps": 4,
                "guidance": 5,
                "scheduler": "ddim",
                **parts,
            },
            "default_variant": "cpu",
            "variants": {
                "cpu": {
                    "backend": "diffusers",
                    "precision": "fp32",
                    "needs": {"cpus": 1, "memory_gib": 1},
                    "engine": engine,
                }
            },
            **more,
        }
    )


def load(folder: Path, **more: Any) -> DiffusersImages:
    model = spec(folder, **more)
    return DiffusersImages.load(model, model.variant(None), folder)


def picture(**changes: Any) -> Picture:
    values = {"prompt": "a red cat", "negative_prompt": "", "width": 32, "height": 32, "steps": 4, "guidance": 5.0}
    return Picture(**{**values, "scheduler": "ddim", "seed": 1, **changes})


def make(engine: DiffusersImages, wanted: Picture) -> np.ndarray:
    """A picture, made alone; as integers, so that pictures can be subtracted."""
    denoising = engine.start(wanted)
    return finished(engine, denoising)


def finished(engine: DiffusersImages, denoising: LatentDenoising) -> np.ndarray:
    while denoising.step < denoising.steps:
        engine.step([denoising])
    return engine.finish([denoising])[0].astype(int)


def photograph(seed: int = 0, size: int = 32) -> np.ndarray:
    """Something to start from: a few soft colours, uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def stable_diffusion(
    folder: Path, prediction: str = "epsilon", channels: int = 4, tiny_vae: bool = False, **unet_config: Any
) -> Path:
    torch.manual_seed(0)
    text_encoder, tokenizer = clip()
    schedule = {**BETAS, "steps_offset": 1, "prediction_type": prediction}
    parts = {
        "vae": autoencoder_tiny() if tiny_vae else autoencoder(),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet(channels, **unet_config),
        "scheduler": PNDMScheduler(**schedule, skip_prk_steps=True)
        if prediction == "epsilon"
        else DDIMScheduler(**schedule, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipeline = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    return saved(pipeline(**parts), folder)


def stable_diffusion_xl(folder: Path, turbo: bool = False) -> Path:
    torch.manual_seed(0)
    first, tokenizer = clip()
    second, tokenizer_2 = clip(projection=True)
    scheduler = EulerAncestralDiscreteScheduler if turbo else EulerDiscreteScheduler
    spacing = {"timestep_spacing": "trailing"} if turbo else {"timestep_spacing": "leading", "steps_offset": 1}
    parts = {
        "vae": autoencoder(),
        "text_encoder": first,
        "text_encoder_2": second,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "unet": unet(
            4,
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
        "scheduler": scheduler(**BETAS, **spacing),
        "force_zeros_for_empty_prompt": True,
    }
    return saved(StableDiffusionXLPipeline(**parts), folder)


def stable_diffusion_3(folder: Path, t5: bool = True, channels: int = 4, shift: float = 0.06) -> Path:
    torch.manual_seed(0)
    first, tokenizer = clip(projection=True)
    second, tokenizer_2 = clip(projection=True)
    third, tokenizer_3 = t5_encoder(64) if t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=channels,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=channels,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    with torch.no_grad():
        transformer.proj_out.weight *= 3
    parts = {
        "vae": autoencoder(shift, channels),
        "text_encoder": first,
        "text_encoder_2": second,
        "text_encoder_3": third,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "tokenizer_3": tokenizer_3,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return saved(StableDiffusion3Pipeline(**parts), folder)


def flux(folder: Path, guidance: bool = True) -> Path:
    torch.manual_seed(0)
    text_encoder, tokenizer = clip()
    second, tokenizer_2 = t5_encoder(32)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )
    with torch.no_grad():
        transformer.proj_out.weight *= 3
    parts = {
        "vae": autoencoder(shift=0.1),
        "text_encoder": text_encoder,
        "text_encoder_2": second,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=guidance),
    }
    return saved(FluxPipeline(**parts), folder)


def z_image(folder: Path) -> Path:
    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "<|user|>", "<|assistant|>", "<unk>", *letters]
    model = models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>")
    letter_by_letter = Tokenizer(model)
    letter_by_letter.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letter_by_letter,
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template="{% for message in messages %}<|user|>{{ message.content }}{% endfor %}<|assistant|>",
    )
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(pieces),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )
    ).eval()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 4, 8],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else None
            if name.endswith("pad_token"):
                weight.mul_(0.1)
    parts = {
        "vae": autoencoder(shift=0.1),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    return saved(ZImagePipeline(**parts), folder)


def controlnet(folder: Path, base: Path, seed: int = 0) -> Path:
    """A ControlNet of a UNet. Its outputs begin as zeros; here they are random, so that it does something."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(
        UNet2DConditionModel.from_pretrained(base, subfolder="unet"), conditioning_embedding_out_channels=(4, 8, 8)
    )
    with torch.no_grad():
        for block in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
            torch.nn.init.normal_(block.weight, std=0.5)
    net.save_pretrained(folder)
    return folder


def lora(folder: Path, base: Path, seed: int = 0, text: bool = False) -> Path:
    """A LoRA of a UNet's attention, and of the text encoder's."""
    pipe = DiffusionPipeline.from_pretrained(base)
    torch.manual_seed(seed)
    states = {}
    reached = {"unet": pipe.unet, **({"text_encoder": pipe.text_encoder} if text else {})}
    for name, part in reached.items():
        targets = ["to_q", "to_k", "to_v", "to_out.0"] if name == "unet" else ["q_proj", "v_proj"]
        part.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False))
        with torch.no_grad():
            for weight_name, weight in part.named_parameters():
                if "lora_" in weight_name:
                    torch.nn.init.normal_(weight, std=0.5)
        states[name] = get_peft_model_state_dict(part)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=states["unet"], text_encoder_lora_layers=states.get("text_encoder")
    )
    return folder


def unet(channels: int, **more: Any) -> UNet2DConditionModel:
    net = UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": channels,
            "out_channels": 4,
            "layers_per_block": 1,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            **more,
        }
    )
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "attn2.to_out" in name or name.startswith("conv_out"):
                weight.mul_(4)  # the prompt counts
    return net


def autoencoder(shift: float | None = None, channels: int = 4) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 3
    return vae


def autoencoder_tiny() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    )


def clip(projection: bool = False) -> tuple[Any, CLIPTokenizer]:
    """A CLIP text encoder that reads 77 tokens, one of each letter."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )
    config = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=77,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval(), tokenizer


def t5_encoder(width: int) -> tuple[T5EncoderModel, T5Tokenizer]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return T5EncoderModel(config).eval(), tokenizer


def saved(pipe: DiffusionPipeline, folder: Path) -> Path:
    pipe.save_pretrained(folder)
    return folder
