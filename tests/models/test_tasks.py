"""What a contract says of its task by itself; what holds for each task there is stands in tests/tasks."""

import pytest

from models.tasks import embeddings, styles
from models.tasks.embeddings import EMBED, MANY_INPUTS, EmbeddingRequest
from models.tasks.task import Begins, Settings, Task
from models.tasks.usage import AUDIO_SECONDS, CHARACTERS, COMPLETION_TOKENS, NOTHING, PROMPT_TOKENS, Usage


def task(begins=None, counts=()):
    return Task("any", Settings, (), counts, lambda settings: (), begins)


@pytest.mark.parametrize(
    ("begins", "counts", "promises"),
    [
        (None, (CHARACTERS,), ["duration_s"]),
        (Begins.TOKENS, (COMPLETION_TOKENS,), ["duration_s", "time_to_first_token_s", "time_per_output_token_s"]),
        (Begins.AUDIO, (AUDIO_SECONDS,), ["duration_s", "time_to_first_audio_s", "real_time_factor"]),
        (None, (AUDIO_SECONDS,), ["duration_s", "real_time_factor"]),
    ],
)
def test_what_can_be_promised_follows_from_how_it_begins_and_what_it_counts(begins, counts, promises):
    assert list(task(begins, counts).promises) == promises


def test_only_what_cuts_text_into_tokens_reads_tokens():
    assert (embeddings.TASK.reads_tokens, styles.TASK.reads_tokens) == (True, False)


@pytest.mark.parametrize(("inputs", "large"), [(1, False), (MANY_INPUTS - 1, False), (MANY_INPUTS, True)])
def test_many_inputs_have_a_large_answer(inputs, large):
    assert EMBED.large(EmbeddingRequest(("a",) * inputs)) is large


def test_usage_adds_up_count_by_count():
    first, second = Usage({PROMPT_TOKENS: 3}), Usage({PROMPT_TOKENS: 4, COMPLETION_TOKENS: 2})
    assert first + second == second + first == Usage({PROMPT_TOKENS: 7, COMPLETION_TOKENS: 2})
    assert first == Usage({PROMPT_TOKENS: 3})
    assert first + NOTHING == first
    assert (NOTHING[PROMPT_TOKENS], first[COMPLETION_TOKENS]) == (0, 0)
