"""The tokenizer of all embedding engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer


class TextTokenizer:
    """The tokenizer of a tokenizer.json, with truncation and padding switched off."""

    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # Engines lower it to the rows of their embedding table, if those are fewer.
        self.vocabulary_size = max(self.tokenizer.get_vocab().values()) + 1
        self.special = frozenset(
            token for token, content in self.tokenizer.get_added_tokens_decoder().items() if content.special
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        # `encode`, for a single text, would hold Python's global lock all the while.
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def truncate(self, tokens: list[int], length: int) -> list[int]:
        if len(tokens) <= length:
            return tokens
        if length > 1 and tokens[-1] in self.special:
            return [*tokens[: length - 1], tokens[-1]]
        return tokens[:length]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)

    def without_special_tokens(self, tokens: list[int]) -> list[int]:
        return [token for token in tokens if token not in self.special]

    def token_strings(self, tokens: Sequence[int]) -> list[str]:
        return [self.tokenizer.id_to_token(token) or "" for token in tokens]
