"""What is asked of texts and token ids before a tokenizer or a model works on them.

A tokenizer takes seconds and gigabytes for megabytes of text, and a model that looks up an id beyond its embedding
table fails for everybody. So both are refused before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.errors import ContextLengthExceeded, InvalidRequest

# Characters that are tokenized at a time, to see whether a text is too long: first 8 for each token that may be read,
# then twice as many each time, within these bounds.
SHORTEST_PIECE, LONGEST_PIECE = 4096, 1 << 16
# A cut can add so many tokens: WordPiece reads a word of up to 100 letters letter by letter, and a longer one at once.
ADDED_BY_A_CUT = 100

# Clients may count the tokens of texts that are too long for the model, up to this many tokens. Looking up tokens
# passes no admission, so it must be cheap: this much takes a tenth of a second. For the same reason its characters are
# limited, of which some tokenizers read any number as one token.
COUNTED = 16_384
CHARACTERS_OF_A_TOKEN = 16


def beginning(text: str, tokens: int, count: Callable[[str], int], *, from_end: bool = False) -> str:
    """The part of a text that surely has more than `tokens` tokens; the whole text if no part surely has.

    Args:
        count: the number of tokens of a text.
        from_end: take the part from the end of the text.
    """
    piece = min(LONGEST_PIECE, max(SHORTEST_PIECE, 8 * tokens))
    found, read = 0, 0
    while (next_read := read + piece) < len(text):
        start, end = (len(text) - next_read, len(text) - read) if from_end else (read, next_read)
        found += count(text[start:end]) - ADDED_BY_A_CUT
        if found > tokens:
            return text[start:] if from_end else text[:end]
        read, piece = next_read, min(LONGEST_PIECE, 2 * piece)
    return text


def too_long(limit: int, param: str | None, tokens: int | None = None) -> ContextLengthExceeded:
    """The error for a text.

    Args:
        tokens: its number of tokens, if that is known.
    """
    has = "this text has more" if tokens is None else f"this text has {tokens}"
    return ContextLengthExceeded(f"At most {limit} tokens can be read here; {has}. Shorten it.", param)


def check_countable(text: str, context_tokens: int, count: Callable[[str], int], param: str | None) -> None:
    """Raises ContextLengthExceeded if a client may not have the tokens of this text looked up. See COUNTED."""
    limit = most_counted(context_tokens)
    if len(text) > CHARACTERS_OF_A_TOKEN * limit or beginning(text, limit, count) is not text:
        raise too_long(limit, param)


def check_counted(tokens: Sequence[int], context_tokens: int, param: str) -> None:
    """Raises ContextLengthExceeded if these are more tokens than a client may look up at once."""
    if len(tokens) > (limit := most_counted(context_tokens)):
        raise too_long(limit, param, len(tokens))


def most_counted(context_tokens: int) -> int:
    """How many tokens a client may look up at once."""
    return max(context_tokens, COUNTED)


def check_vocabulary(tokens: Sequence[int], size: int, param: str | None) -> None:
    """Raises InvalidRequest if a client's token ids are not all below `size`."""
    if tokens and not (min(tokens) >= 0 and max(tokens) < size):
        raise InvalidRequest(f"Tokens must be ids from 0 to {size - 1}.", param)


def check_read(tokens: Sequence[int], size: int, param: str | None) -> None:
    """Raises InvalidRequest if a text was tokenized to an id that the model does not have. Some tokenizers know more
    tokens than their models."""
    if tokens and max(tokens) >= size:
        raise InvalidRequest("This text has a special token that the model does not know. Take it out.", param)
