"""What is known of each request afterwards, and how it is kept: one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

BEYOND_PROMISE = "beyond_promise"


@dataclass(slots=True)
class Record:
    """One request, and what became of its last try. Times are seconds from the start of the schedule, None for what
    never came.

    Attributes:
        number: in the schedule. id: the request's id, as the server logs it. build: which of the targets of an A/B run.
        due, sent: when it should have been sent first, and when it was.
        returned: how often its client came back after a refusal, at the time that Retry-After said.
        tried: when it was sent last: the same as `sent` for a client that did not come back.
        first, last: when its first token (or byte) came and its last.
        first_audio: when its first sound came, in an answer that is sound.
        tokens, prompt_tokens: as the server counts them. chunks: pieces of a stream with text. max_gap: the longest
            wait between two of them, seconds.
        amount: of what the task makes, such as the number of pictures or embeddings.
        audio_s: seconds of sound that were made or heard; 0 where nobody says how many.
        status: of HTTP; 0 when there was no answer. code: of the error, as the API has it. retry_after: the header's
            seconds.
        complete: the answer ended as it should, a stream with its end mark.
        left: the client went away on purpose.
        given_up: the client had waited longer than anything is promised to take, and went away without a whole answer.
        why: what was wrong, empty if nothing.
        queue_s, engine_s: what the server says of itself, Server-Timing.
    """

    number: int
    id: str
    task: str
    model: str
    scenario: str = ""
    build: str = ""
    tenant: str = ""
    due: float = 0.0
    sent: float | None = None
    returned: int = 0
    tried: float | None = None
    first: float | None = None
    last: float | None = None
    first_audio: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    chunks: int = 0
    max_gap: float = 0.0
    amount: int = 0
    audio_s: float = 0.0
    status: int = 0
    code: str = ""
    retry_after: float | None = None
    complete: bool = False
    left: bool = False
    given_up: bool = False
    why: str = ""
    queue_s: float | None = None
    engine_s: float | None = None

    @property
    def subject(self) -> str:
        """What is judged by itself: a model, or what one tenant asks of it."""
        return subject_of(self.model, self.tenant)

    @property
    def refused(self) -> bool:
        """The server said in time that it has no room."""
        return self.status in (429, 503)

    @property
    def beyond(self) -> bool:
        """The server said that it is too large to be answered in time even alone: to come back does not help."""
        return self.code == BEYOND_PROMISE

    @property
    def let_in(self) -> bool:
        """Its client came back, and this time was not refused."""
        return self.returned > 0 and self.status == 200

    @property
    def answered(self) -> bool:
        """Whole and right."""
        return self.complete and not self.why

    @property
    def begins(self) -> float:
        """From when its times count: when it was due, or, of a client that came back, when that try was sent. What it
        waited before was what Retry-After had said, and not a slow answer."""
        return self.tried if self.returned and self.tried is not None else self.due

    @property
    def lag(self) -> float | None:
        """How much later than due it was sent: the load generator's own doing."""
        return None if self.sent is None else self.sent - self.due

    def figures(self) -> dict[str, float]:
        """What the limits of `slo.yaml` are about, by their names. Times are seconds from when the request `begins`. A
        figure that the request does not have is left out, such as the time per token of an answer of one token."""
        found: dict[str, float] = {}
        if self.last is not None:
            found["duration_s"] = self.last - self.begins
            if self.audio_s:
                found["real_time_factor"] = (self.last - self.begins) / self.audio_s
        if self.first_audio is not None:
            found["time_to_first_audio_s"] = self.first_audio - self.begins
        if self.first is not None and self.chunks:
            found["time_to_first_token_s"] = self.first - self.begins
            if self.tokens > 1 and self.last is not None:
                found["time_per_output_token_s"] = (self.last - self.first) / (self.tokens - 1)
        return found


def subject_of(model: str, tenant: str) -> str:
    return f"{model} of {tenant}" if tenant else model


NAMES = frozenset(field.name for field in fields(Record))


def as_document(record: Record) -> dict[str, Any]:
    return asdict(record)


def as_line(record: Record) -> str:
    return json.dumps(as_document(record), separators=(",", ":")) + "\n"


def of_document(document: dict[str, Any]) -> Record:
    return Record(**{name: value for name, value in document.items() if name in NAMES})


def write(records: Iterable[Record], file: Path) -> None:
    with file.open("w") as lines:
        lines.writelines(map(as_line, records))


def read(file: Path) -> Iterator[Record]:
    """Raises ValueError: a line is no record; the message has its number."""
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            yield of_document(json.loads(line))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, line {number}: not a record ({error})") from None
