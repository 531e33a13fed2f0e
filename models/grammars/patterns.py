"""Regular expressions of JSON schemas: ECMA-262, as far as the grammar compiler keeps to it.

xgrammar reads much more than it honours: it drops a look-ahead or an anchor in the middle, and writes a quotation mark
into a JSON string as it is. What it would drop or change is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The longest pattern, in characters; patterns of addresses and dates have about a hundred.
LONGEST = 1_000
# The largest count in {m,n}, and the most single characters that a pattern may stand for when counts are multiplied
# out. The time to read a pattern grows with the square of this; reading is done where all requests are answered.
MOST_REPEATED = 1_000
DEEPEST = 20

COUNTS = re.compile(r"\{(\d+)(,(\d*))?\}")
ESCAPES = {
    "b": r"a word boundary (\b)",
    "B": r"a word boundary (\B)",
    "p": r"a Unicode property (\p)",
    "P": r"a Unicode property (\P)",
    "k": r"a reference to a group (\k)",
    "c": r"a control character (\c)",
}
# These have to be escaped in a JSON string, which the compiler does not do.
ESCAPED_IN_JSON = frozenset('"\\') | frozenset(map(chr, range(32)))
CONTROLS = frozenset("tnrfv0")
SINGLE = frozenset("dDsSwW")


class PatternRefused(ValueError):
    """Why a pattern cannot be used: the end of a sentence that begins with "The pattern"."""


def check_pattern(pattern: str) -> None:
    """
    Raises:
        PatternRefused: the pattern is invalid, too large, or has what the compiler does not honour.
    """
    if len(pattern) > LONGEST:
        raise PatternRefused(f"has {len(pattern)} characters, and at most {LONGEST} are allowed")
    _Reader(pattern).read()


@dataclass
class _Reader:
    pattern: str
    at: int = 0
    depth: int = 0

    def read(self) -> None:
        self.alternatives()
        if self.at < len(self.pattern):
            raise self.invalid("has a ) that opens nowhere")

    def alternatives(self) -> int:
        """Read up to the end or a closing parenthesis. Returns how many single characters were read, with counts
        multiplied out."""
        size = 0
        while True:
            size += self.sequence()
            if size > MOST_REPEATED:
                raise PatternRefused(f"repeats more than {MOST_REPEATED} characters, all counts multiplied")
            if not self.take("|"):
                return size

    def sequence(self) -> int:
        size = 0
        start = self.at
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if not self.anchor(start):
                size += self.repeated(self.atom())
            if size > MOST_REPEATED:
                raise PatternRefused(f"repeats more than {MOST_REPEATED} characters, all counts multiplied")
        return size

    def anchor(self, start: int) -> bool:
        """Read ^ or $. Outside of groups, at the ends of an alternative, they change nothing."""
        character = self.pattern[self.at]
        if character not in "^$":
            return False
        self.at += 1
        after = self.pattern[self.at : self.at + 1]
        if after and after in "*+?{":
            raise self.invalid(f"repeats {character}")
        at_the_end = self.at - 1 == start if character == "^" else after in ("", "|")
        if self.depth or not at_the_end:
            raise PatternRefused(f"has {character} at position {self.at}, which works only at the ends of a pattern")
        return True

    def repeated(self, size: int) -> int:
        """Read a quantifier, if there is one."""
        most = 1
        if self.pattern[self.at : self.at + 1] in ("*", "+", "?"):
            self.at += 1
        elif counts := COUNTS.match(self.pattern, self.at):
            self.at = counts.end()
            low, high = int(counts[1]), counts[3]
            most = int(high) if high else low
            if most < low:
                raise self.invalid(f"counts from {low} to {most}")
            if max(low, most) > MOST_REPEATED:
                raise PatternRefused(f"counts to {most}, and at most {MOST_REPEATED} is allowed")
            most = max(most, 1)
        else:
            return size
        self.take("?")
        if self.pattern[self.at : self.at + 1] in ("*", "+", "?", "{"):
            raise self.invalid("repeats a repetition")
        return size * most

    def atom(self) -> int:
        character = self.pattern[self.at]
        self.at += 1
        if character == "(":
            return self.group()
        if character == "[":
            return self.characters()
        if character == "\\":
            self.escape(in_class=False)
        elif character in "*+?":
            raise self.invalid(f"repeats nothing with {character}")
        elif character in "{}]":
            raise self.invalid(rf"has {character} without a backslash")
        elif character in ESCAPED_IN_JSON:
            raise unwritable(character)
        return 1

    def group(self) -> int:
        self.depth += 1
        if self.depth > DEEPEST:
            raise PatternRefused(f"has groups in groups, {DEEPEST} deep")
        if self.take("?"):
            self.group_kind()
        size = self.alternatives()
        if not self.take(")"):
            raise self.invalid("has a ( that is not closed")
        self.depth -= 1
        return max(size, 1)

    def group_kind(self) -> None:
        if self.take(":"):
            return
        rest = self.pattern[self.at :]
        if rest.startswith(("=", "!", "<=", "<!")):
            raise PatternRefused("looks ahead or behind, which is not supported")
        name = re.match(r"<[A-Za-z_$][\w$]*>", rest)
        if not name:
            raise self.invalid("has a group of a kind that ECMA-262 does not know, or that is not supported")
        self.at += name.end()

    def characters(self) -> int:
        """A class, after its [. The compiler leaves out of it what would have to be escaped in JSON, unless nothing
        else is there."""
        writable = self.take("^")
        first: str | None = None
        one: str | None = None
        ranged = False
        if self.pattern[self.at : self.at + 1] == "]":
            raise self.invalid("has a class without characters")
        while not self.take("]"):
            if self.at >= len(self.pattern):
                raise self.invalid("has a [ that is not closed")
            character = self.pattern[self.at]
            self.at += 1
            one = self.escape(in_class=True) if character == "\\" else character
            writable |= one not in ESCAPED_IN_JSON
            if ranged:
                ranged = False
                if first is not None and one is not None and one < first:
                    raise self.invalid(f"has the empty range {first}-{one}")
                first = None
            elif one == "-" and character != "\\" and first is not None and self.pattern[self.at : self.at + 1] != "]":
                ranged = True
            else:
                first = one
        if not writable:
            raise unwritable(one or "")
        return 1

    def escape(self, in_class: bool) -> str | None:
        """What a backslash and the next characters stand for; None for a set of characters."""
        if self.at >= len(self.pattern):
            raise self.invalid("ends with a backslash")
        character = self.pattern[self.at]
        self.at += 1
        if character in SINGLE:
            return None
        if character in ESCAPES:
            raise PatternRefused(f"has {ESCAPES[character]}, which is not supported")
        if character.isdigit() and character != "0":
            raise PatternRefused("refers to a group, which is not supported")
        if character in CONTROLS:
            one = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}[character]
        elif character in "xu":
            width = 2 if character == "x" else 4
            digits = self.pattern[self.at : self.at + width]
            if not re.fullmatch(f"[0-9a-fA-F]{{{width}}}", digits):
                raise PatternRefused(rf"has \{character} without {width} hexadecimal digits")
            self.at += width
            one = chr(int(digits, 16))
            if "\ud800" <= one <= "\udfff":
                raise PatternRefused("has half of a pair of surrogates")
        elif character.isalpha():
            raise self.invalid(rf"has \{character}, which ECMA-262 does not know")
        else:
            one = character
        if not in_class and one in ESCAPED_IN_JSON:
            raise unwritable(one)
        return one

    def take(self, character: str) -> bool:
        found = self.pattern[self.at : self.at + 1] == character
        self.at += found
        return found

    def invalid(self, why: str) -> PatternRefused:
        return PatternRefused(f"is not valid: it {why} (position {self.at})")


def unwritable(character: str) -> PatternRefused:
    name = {'"': "a quotation mark", "\\": "a backslash", "\0": "a NUL"}.get(character, "a control character")
    return PatternRefused(f"asks for {name}, which has to be escaped in JSON and is not supported in patterns")
