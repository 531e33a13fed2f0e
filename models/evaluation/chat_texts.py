"""What chat models are compared on: a text that they read, prompts that they answer, and requests of one size.

The text is `texts/chat.txt`, and the prompts are below; both were written for Medley and are under its licence.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

TEXT = Path(__file__).parent / "texts" / "chat.txt"
# Tokens of the text that are read at a time. Scores of a whole vocabulary are kept for each, so longer ones would show
# in the peak of memory that serving does not have.
WINDOW = 128
# Tokens of a request of `work`, and of its answer; of an answer to a prompt.
ASKED, ANSWERED = 64, 64
GREEDY = 24

PROMPTS = (
    "What is the capital of France?",
    "Name three animals that lay eggs.",
    "Write one sentence about the sea.",
    "How many days are there in a leap year?",
    "What is the opposite of cold?",
    "Explain in one sentence why the sky is blue.",
    "Give me a recipe for a simple tomato salad.",
    "Who wrote Romeo and Juliet?",
    "Translate into French: Good morning, my friend.",
    "What do plants need to grow?",
    "List the planets of the solar system in order.",
    "What is 12 plus 30?",
    "Tell me a short story about a fox and a crow.",
    "How do I boil an egg?",
    "What is the largest ocean on Earth?",
    "Suggest a name for a small bakery.",
    "Why do people sleep?",
    "Write a polite email that cancels a meeting.",
    "What is a prime number?",
    "Which language is spoken in Brazil?",
    "Describe a winter morning in two sentences.",
    "What does a doctor do?",
    "How can I learn to play the guitar?",
    "What is the boiling point of water?",
    "Give two reasons to read books.",
    "What is the difference between a lake and a river?",
    "Write a Python function that adds two numbers.",
    "What should I pack for a day in the mountains?",
    "Is a tomato a fruit or a vegetable?",
    "Summarise in one sentence: The cat sat by the door all day and waited for the boy to come home from school.",
    "What colour do you get when you mix blue and yellow?",
    "Say goodbye in a friendly way.",
)


@cache
def text() -> str:
    return TEXT.read_text()


def windows(tokenizer: Any) -> list[list[int]]:
    """The text in pieces of WINDOW tokens, each behind the token that begins a text where the model has one. The rest
    that fills no window is left out."""
    tokens = tokens_of_text(tokenizer)
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    size = WINDOW - len(begin)
    return [begin + tokens[first : first + size] for first in range(0, len(tokens) - size + 1, size)]


def prompts(tokenizer: Any) -> list[list[int]]:
    """Tokens of the prompts, in the model's own chat form."""
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    texts = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # the template writes them


def requests(tokenizer: Any, batch: int, turn: int) -> list[list[int]]:
    """Prompts of ASKED tokens for `work`. No two begin alike, so that none is answered from a cache of prefixes."""
    tokens = tokens_of_text(tokenizer)
    starts = ((turn * 8 + number) * 37 % (len(tokens) - ASKED) for number in range(batch))
    return [tokens[start : start + ASKED] for start in starts]


def tokens_of_text(tokenizer: Any) -> list[int]:
    return tokenizer(text(), add_special_tokens=False, verbose=False)["input_ids"]
