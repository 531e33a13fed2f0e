"""Language models: how likely a text is to a variant, and how often it predicts the same next token.

Both are measured with the correct text before each token (teacher forcing), so that one different token does not change
all that follow. Perplexity is exp of the mean negative log likelihood of a token, see Jelinek et al. 1977.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.specs import Backend, ModelSpec, VariantSpec
from workshop.evaluation.chat_texts import ANSWERED, FACTS, GREEDY, PROMPTS
from workshop.evaluation.evaluation import Answers, Evaluation, Measure, Subject

# Arguments of the server, which vLLM's engine alone does not accept.
OF_THE_SERVER = frozenset({"enable_auto_tool_choice", "tool_call_parser", "reasoning_parser_plugin", "chat_template"})

MEASURES = {
    "perplexity": Measure(
        "Perplexity",
        "of the variant, on the evaluation text; comparable between models with the same tokens only.",
        higher_is_better=False,
    ),
    "perplexity_ratio": Measure(
        "Perplexity ratio",
        "the variant's perplexity on the evaluation text by the reference's: 1.02 is two percent worse.",
        higher_is_better=False,
    ),
    "agreement": Measure(
        "Token agreement",
        "share of the positions of the evaluation text at which the variant's most likely next token is the "
        "reference's, the right tokens before it given.",
        higher_is_better=True,
    ),
    "greedy_prefix": Measure(
        "Same greedy answer",
        f"share of the first {GREEDY} tokens of the reference's greedy answers to {len(PROMPTS)} prompts that the "
        "variant gives too, before the first that differs; one near tie changes all that follows.",
        higher_is_better=True,
    ),
    "facts_kept": Measure(
        "Facts kept",
        f"share of the {len(FACTS)} easy questions, such as the capital of France, that the reference answers right "
        "and the variant too.",
        higher_is_better=True,
    ),
}


def open_subject(spec: ModelSpec, variant: VariantSpec, weights: Path) -> Subject:
    """Load a variant in this process, or for vLLM in a child process.

    Raises:
        ValueError: its backend's answers cannot be compared.
        RuntimeError: a requirement of the variant, such as a GPU, is missing.
    """
    match variant.backend:
        case Backend.VLLM:
            from models.engines.chat_vllm import Engine as VLLMChat
            from workshop.evaluation.chat_vllm import VLLMSubject

            options = {name: value for name, value in variant.engine.items() if name not in OF_THE_SERVER}
            return VLLMSubject(weights, {"dtype": VLLMChat.dtype(variant), **options})
        case Backend.TRANSFORMERS:
            from models.engines.chat_transformers import Engine as TransformersChat
            from workshop.evaluation.chat_transformers import TransformersSubject

            return TransformersSubject(TransformersChat.load(spec, variant, weights))
        case _:
            raise ValueError(f"Chat on {variant.backend} cannot be compared: it is no language model.")


def compare(reference: Answers, variant: Answers) -> dict[str, float]:
    """
    Args: each with
        logprobs: natural logarithms for each token of the text. (positions,)
        likeliest: the most likely token at each position. (positions,)
        greedy: tokens of the answers to the prompts, -1 after an end. (prompts, GREEDY)
        right: whether each of FACTS was answered right. (facts,)
    """
    perplexity = perplexity_of(variant["logprobs"])
    return {
        "perplexity": perplexity,
        "perplexity_ratio": perplexity / perplexity_of(reference["logprobs"]),
        "agreement": float(np.mean(reference["likeliest"] == variant["likeliest"])),
        "greedy_prefix": common_prefix(reference["greedy"], variant["greedy"]),
        **facts_kept(reference["right"], variant["right"]),
    }


def facts_kept(reference: np.ndarray, variant: np.ndarray) -> dict[str, float]:
    """No figure where the reference knows nothing. (facts,) each."""
    return {"facts_kept": float(np.mean(variant[reference]))} if reference.any() else {}


def perplexity_of(logprobs: np.ndarray) -> float:
    with np.errstate(over="ignore"):  # for a broken model, inf is correct
        return float(np.exp(-np.mean(logprobs.astype(np.float64))))


def common_prefix(reference: np.ndarray, variant: np.ndarray) -> float:
    """The mean share of a reference answer before the first different token. (prompts, tokens) each."""
    spoken = reference >= 0
    same = np.cumprod((reference == variant) & spoken, axis=1)
    return float(np.mean(same.sum(axis=1) / np.maximum(spoken.sum(axis=1), 1)))


def tokens_of(batch: int) -> int:
    return batch * ANSWERED


EVALUATION = Evaluation(MEASURES, "token", open_subject, compare, tokens_of)
