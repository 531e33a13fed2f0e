"""How long the sound of a WAV file is, and where it begins."""

from __future__ import annotations

import io
import wave


def wav_sound(data: bytes) -> tuple[int, float]:
    """The number of bytes before the first sample, and the seconds of sound; (0, 0.0) if it is no WAV of PCM.

    Who streams a file does not know its length when the header is sent, and writes the largest number there. So what
    came counts, and not what the header says, where that is more.
    """
    file = io.BytesIO(data)
    try:
        with wave.open(file) as sound:
            begins = file.tell()
            frames = (len(data) - begins) // (sound.getnchannels() * sound.getsampwidth())
            return begins, min(frames, sound.getnframes()) / sound.getframerate()
    except (wave.Error, EOFError):
        return 0, 0.0
