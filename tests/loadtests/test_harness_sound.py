"""Answers that are bytes: when their sound begins, how long it is, and which promises on it are kept."""

import io
import struct
import wave

import pytest
from fake_server import RATE, SPEECH, wav
from runs import at

from loadtest.counters import COUNTERS
from loadtest.sound import wav_sound

EXACT = pytest.approx
SPEAKING = {"parts": [{"task": "speech"}]}


def counts(run):
    return {name: run.rule(name)["value"] for name in COUNTERS}


def misses(run):
    return run.rule("goodput", "fake-speech")["why"]


def test_whole_sound_comes_when_all_of_it_is_there(world):
    run = world.harness(world.server(cards=[SPEECH], work_s=0.3, sound_s=2.0), at(10, 8) | SPEAKING)
    assert run.code == 0, run.output
    for record in run.records:
        assert record["complete"]
        assert record["first"] == record["first_audio"] == record["last"]
        assert record["last"] - record["due"] == EXACT(0.3, abs=1e-6)
        assert (record["audio_s"], record["amount"], record["chunks"]) == (2.0, 1, 0)
    assert run.report["models"][0]["figures"].keys() == {"time_to_first_audio_s", "real_time_factor", "duration_s"}
    assert run.report["models"][0]["figures"]["real_time_factor"]["p50"] == EXACT(0.15, abs=1e-6)


def test_streamed_sound_is_timed_piece_by_piece_and_its_header_is_not_sound(world):
    """The header comes at once, the first sound after 0.12 s, and three more pieces every 0.1 s."""
    server = world.server(cards=[SPEECH], pieces=4, first_s=0.12, token_s=0.1, sound_s=2.0)
    run = world.harness(server, at(10, 8) | SPEAKING)
    assert run.code == 0, run.output
    truth = world.truth(server)
    for record in run.records:
        entry = truth[record["id"]]
        assert record["first"] - record["due"] == EXACT(0, abs=1e-6)
        assert record["first_audio"] - record["sent"] == EXACT(entry["writes"][0] - entry["at"], abs=1e-6)
        assert record["last"] - record["sent"] == EXACT(entry["writes"][-1] - entry["at"], abs=1e-6)
        assert record["audio_s"] == 2.0
    figures = run.report["models"][0]["figures"]
    assert figures["time_to_first_audio_s"]["p99"] == EXACT(0.12, abs=1e-6)
    assert figures["real_time_factor"]["p99"] == EXACT(0.42 / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("kept", "broken", "why"),
    [
        ({"first_s": 0.49}, {"first_s": 0.51}, "time_to_first_audio_s 0.51 over 0.5"),
        ({"first_s": 0.1, "token_s": 0.22}, {"first_s": 0.1, "token_s": 0.24}, "real_time_factor 0.41 over 0.4"),
    ],
)
def test_promises_on_sound_are_kept_and_broken(world, kept, broken, why):
    def tried(**settings):
        return world.harness(world.server(cards=[SPEECH], pieces=4, sound_s=2.0, **settings), at(10, 8) | SPEAKING)

    assert tried(**kept).code == 0
    run = tried(**broken)
    assert run.code == 1, run.output
    assert why in misses(run)
    assert counts(run) == dict.fromkeys(COUNTERS, 0)


def test_a_promise_on_sound_is_broken_by_an_answer_in_words(world):
    """A promise that nothing can be held against is not one that is kept."""
    words = SPEECH | {"example": {"path": "/v1/rerank", "body": {}}}
    run = world.harness(world.server(cards=[words]), at(10, 8) | SPEAKING)
    assert run.code == 1, run.output
    assert "time_to_first_audio_s was not kept: nothing of it came as sound" in misses(run)
    assert counts(run) == dict.fromkeys(COUNTERS, 0)  # the answer itself is right


@pytest.mark.parametrize("pieces", [0, 4])
def test_sound_that_is_cut_off_is_not_complete(world, pieces):
    run = world.harness(world.server(cards=[SPEECH], pieces=pieces, cut=20), at(10, 5) | SPEAKING)
    assert run.code == 1, run.output
    assert counts(run) == dict.fromkeys(COUNTERS, 0) | {"incomplete_streams": len(run.records) // 20}


@pytest.mark.parametrize("pieces", [0, 4])
def test_words_that_are_called_sound_are_a_wrong_answer(world, pieces):
    run = world.harness(world.server(cards=[SPEECH], pieces=pieces, wrong=20), at(10, 5) | SPEAKING)
    assert run.code == 1, run.output
    assert counts(run) == dict.fromkeys(COUNTERS, 0) | {"wrong_answers": len(run.records) // 20}
    assert "it is called audio/wav" in run.rule("wrong_answers")["why"]


def test_what_a_server_says_of_the_length_goes_before_the_file(world):
    run = world.harness(world.server(cards=[SPEECH], said_s="8.0", sound_s=2.0), at(10, 1) | SPEAKING)
    assert {record["audio_s"] for record in run.records} == {8.0}


def test_the_length_of_a_wav_is_that_of_its_samples():
    file = wav(1.5)
    assert wav_sound(file) == (len(wav(0)), 1.5)
    # Who streams does not know the length when the header is sent. What came counts.
    size = file.index(b"data") + 4
    endless = file[:size] + b"\xff\xff\xff\xff" + file[size + 4 :]
    assert wav_sound(endless) == (len(wav(0)), 1.5)
    assert wav_sound(file[: len(wav(0)) + RATE]) == (len(wav(0)), 1.0)
    # A chunk that follows is not sound.
    assert wav_sound(file + b"LIST" + struct.pack("<I", 4000) + bytes(4000)) == (len(wav(0)), 1.5)


def test_samples_have_channels_and_widths():
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(24_000)
        sound.writeframes(bytes(4 * 12_000))
    assert wav_sound(file.getvalue())[1] == 0.5


@pytest.mark.parametrize("data", [b"", b"RIFF", b"ID3 an MP3", wav(1)[:20]])
def test_of_what_is_no_wav_the_length_is_not_known(data):
    assert wav_sound(data) == (0, 0.0)
