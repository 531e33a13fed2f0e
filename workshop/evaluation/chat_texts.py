"""The data to compare chat models on: a text to read, prompts to answer, and requests of one size.

The text is in `chat_texts.txt` and the prompts are below. Both were written for Medley and are under its licence.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

TEXT = Path(__file__).with_suffix(".txt")
# Tokens of the text per forward pass. Each keeps scores for the whole vocabulary, so longer passes would raise the peak
# memory above that of serving.
WINDOW = 128
# Tokens of a request of `work`, of its answer, and of an answer to a prompt.
ASKED, ANSWERED = 64, 64
GREEDY = 24

# Questions, and words of which a right answer contains one. Only questions that the reference answers right count.
FACTS = {
    "What is the capital of France?": ("Paris",),
    "What is the capital of Italy?": ("Rome",),
    "What is the capital of Germany?": ("Berlin",),
    "What is the capital of Japan?": ("Tokyo",),
    "What is the capital of Spain?": ("Madrid",),
    "What is the capital of England?": ("London",),
    "What is the capital of Egypt?": ("Cairo",),
    "What is the capital of Russia?": ("Moscow",),
    "How many days are there in a week?": ("7", "seven"),
    "How many months are there in a year?": ("12", "twelve"),
    "How many days are there in a leap year?": ("366",),
    "How many hours are there in a day?": ("24",),
    "How many minutes are there in an hour?": ("60", "sixty"),
    "How many legs does a spider have?": ("8", "eight"),
    "What is the opposite of cold?": ("hot", "warm", "heat"),
    "What is the opposite of day?": ("night",),
    "What is the opposite of small?": ("large", "big"),
    "Who wrote Romeo and Juliet?": ("Shakespeare",),
    "Who painted the Mona Lisa?": ("Leonardo", "Vinci"),
    "Who developed the theory of relativity?": ("Einstein",),
    "Who was the first person to walk on the moon?": ("Armstrong",),
    "What is the largest planet in the solar system?": ("Jupiter",),
    "Which planet is known as the red planet?": ("Mars",),
    "What is the largest ocean on Earth?": ("Pacific",),
    "What is the highest mountain in the world?": ("Everest",),
    "What is the longest river in Africa?": ("Nile",),
    "On which continent is Egypt?": ("Africa",),
    "On which continent is China?": ("Asia",),
    "Which language is spoken in Brazil?": ("Portuguese",),
    "Which language is spoken in Germany?": ("German",),
    "What is the currency of Japan?": ("yen",),
    "What is the boiling point of water in degrees Celsius?": ("100",),
    "At how many degrees Celsius does water freeze?": ("0", "zero"),
    "What is the chemical symbol of gold?": ("Au",),
    "What is the chemical formula of water?": ("H2O", "H₂O"),
    "Which gas do plants take in from the air?": ("carbon dioxide", "CO2"),
    "Which gas do people need to breathe?": ("oxygen",),
    "Which organ pumps blood through the body?": ("heart",),
    "Which animal is known as the king of the jungle?": ("lion",),
    "What do bees make?": ("honey",),
    "What do cows drink?": ("water",),
    "What colour is the sky on a clear day?": ("blue",),
    "What colour is grass?": ("green",),
    "What colour do you get when you mix blue and yellow?": ("green",),
    "What is 2 plus 2?": ("4", "four"),
    "What is 12 plus 30?": ("42",),
    "What is 10 minus 3?": ("7", "seven"),
    "What is 5 times 6?": ("30", "thirty"),
}

PROMPTS = (
    *FACTS,
    "Name three animals that lay eggs.",
    "Write one sentence about the sea.",
    "Explain in one sentence why the sky is blue.",
    "Give me a recipe for a simple tomato salad.",
    "Translate into French: Good morning, my friend.",
    "What do plants need to grow?",
    "List the planets of the solar system in order.",
    "Tell me a short story about a fox and a crow.",
    "How do I boil an egg?",
    "Suggest a name for a small bakery.",
    "Why do people sleep?",
    "Write a polite email that cancels a meeting.",
    "What is a prime number?",
    "Describe a winter morning in two sentences.",
    "What does a doctor do?",
    "How can I learn to play the guitar?",
    "Give two reasons to read books.",
    "What is the difference between a lake and a river?",
    "Write a Python function that adds two numbers.",
    "What should I pack for a day in the mountains?",
    "Is a tomato a fruit or a vegetable?",
    "Summarise in one sentence: The cat sat by the door all day and waited for the boy to come home from school.",
    "Say goodbye in a friendly way.",
)


@cache
def text() -> str:
    return TEXT.read_text()


def windows(tokenizer: Any) -> list[list[int]]:
    """The text in windows of WINDOW tokens, each after the model's begin-of-text token, if it has one. An incomplete
    window at the end is left out."""
    tokens = tokens_of_text(tokenizer)
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    size = WINDOW - len(begin)
    return [begin + tokens[first : first + size] for first in range(0, len(tokens) - size + 1, size)]


def prompts(tokenizer: Any) -> list[list[int]]:
    """The tokens of the prompts in the model's chat template."""
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    texts = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # the template adds them


def requests(tokenizer: Any, batch: int, turn: int) -> list[list[int]]:
    """Prompts of ASKED tokens for `work`. All begin differently, so that none is answered from a prefix cache."""
    tokens = tokens_of_text(tokenizer)
    starts = ((turn * 8 + number) * 37 % (len(tokens) - ASKED) for number in range(batch))
    return [tokens[start : start + ASKED] for start in starts]


def tokens_of_text(tokenizer: Any) -> list[int]:
    return tokenizer(text(), add_special_tokens=False, verbose=False)["input_ids"]


def right(tokenizer: Any, answers: list[list[int]]) -> list[bool]:
    """Whether each answer to FACTS, given as tokens, contains a right answer as a whole word."""
    texts = tokenizer.batch_decode(answers[: len(FACTS)], skip_special_tokens=True)
    return [
        any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words)
        for text, words in zip(texts, FACTS.values(), strict=True)
    ]
