"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """
    Attributes:
        subject: the object, such as `RayService medley`. where: the path in it. what: the mistake, and what to do.
    """

    subject: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.subject}, {self.where}: {self.what}" if self.where else f"{self.subject}: {self.what}"


Findings = Iterator[Finding]
