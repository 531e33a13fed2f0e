"""What is asked of texts and token ids before a tokenizer or a model works on them."""

import random

import pytest

from models.errors import ContextLengthExceeded, InvalidRequest
from models.prompt_limits import (
    ADDED_BY_A_CUT,
    COUNTED,
    LONGEST_PIECE,
    beginning,
    check_countable,
    check_counted,
    check_read,
)
from models.tasks.chat import check_ids

COUNTERS = {
    "a token for each word": (lambda text: len(text.split()), "word "),
    "a token for each letter": (len, "a"),
    "WordPiece: one for a long word": (lambda text: sum(len(w) if len(w) <= 100 else 1 for w in text.split()), "abcde"),
    "none for spaces": (lambda text: len(text.replace(" ", "")), " "),
}


@pytest.mark.parametrize("name", COUNTERS)
@pytest.mark.parametrize("from_end", [False, True])
def test_no_text_is_called_too_long_that_is_not(name, from_end):
    count, unit = COUNTERS[name]
    for tokens in (1, 256, 8192):
        text = unit * random.randint(1, 60_000)
        if count(text) <= tokens:
            assert beginning(text, tokens, count, from_end=from_end) is text
        else:
            part = beginning(text, tokens, count, from_end=from_end)
            assert count(part) > tokens
            assert text.endswith(part) if from_end else text.startswith(part)


def test_of_a_text_that_is_too_long_only_the_beginning_is_tokenized():
    read = []

    def count(text):
        read.append(len(text))
        return len(text) // 4

    assert len(beginning("word" * 2_000_000, 8192, count)) == LONGEST_PIECE
    assert sum(read) == LONGEST_PIECE


def test_a_text_of_few_tokens_is_tokenized_piece_by_piece():
    read = []

    def count(text):
        read.append(len(text))
        return len(text) // 64

    assert len(beginning(" " * 8_000_000, 120, count)) < 4 * LONGEST_PIECE
    assert max(read) <= LONGEST_PIECE


def test_what_is_cut_leaves_room_for_the_cut():
    text = "word " * 100_000
    assert len(beginning(text, 20 + ADDED_BY_A_CUT, lambda part: len(part.split())).split()) > 120


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": [10]}, "prompt"),
        ({"prompt": [1, 2, 10]}, "prompt"),
        ({"prompt": [[1], [2, 10]]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"stop_token_ids": [10]}, "stop_token_ids"),
        ({"allowed_token_ids": [3, 1 << 30]}, "allowed_token_ids"),
        ({"logit_bias": {"1": 1, "10": 1}}, "logit_bias.10"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"word": 1}}, "logit_bias.word"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias.1_0"),
        ({"logit_bias": {"\u0661": 1}}, "logit_bias.\u0661"),
    ],
)
def test_an_id_that_the_model_does_not_have_is_refused_by_the_field_it_is_in(body, param):
    with pytest.raises(InvalidRequest) as caught:
        check_ids(body, 10)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": "text"},
        {"prompt": ["a", "b"]},
        {"prompt": [0, 9]},
        {"prompt": [[0], [9]]},
        {"stop_token_ids": [], "allowed_token_ids": [9], "logit_bias": {"0": 1, "09": -1}},
    ],
)
def test_the_ids_that_it_has_are_taken(body):
    check_ids(body, 10)


def test_a_text_with_a_token_that_only_the_tokenizer_knows_is_refused():
    check_read([0, 9], 10, "prompt")
    with pytest.raises(InvalidRequest, match="special token") as caught:
        check_read([0, 10], 10, "prompt")
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("text", ["word " * 2 * COUNTED, " " * 10_000_000])
def test_texts_are_looked_up_only_while_that_is_cheap(text):
    check_countable("word " * COUNTED, 256, lambda part: len(part.split()), "prompt")
    with pytest.raises(ContextLengthExceeded):
        check_countable(text, 256, lambda part: len(part.split()), "prompt")
    check_countable(text[:100_000], 1 << 20, lambda part: len(part.split()), "prompt")


def test_more_tokens_are_counted_than_a_small_model_reads_but_not_any_number():
    check_counted([1] * COUNTED, 256, "tokens")
    with pytest.raises(ContextLengthExceeded):
        check_counted([1] * (COUNTED + 1), 256, "tokens")
    check_counted([1] * (COUNTED + 1), 4 * COUNTED, "tokens")
