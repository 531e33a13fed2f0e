"""Read a Dockerfile, and what a .dockerignore leaves out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass
class Stage:
    """From one FROM to the next. `instructions` are pairs of keyword and the rest, with lines joined."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]

    def last(self, keyword: str) -> str | None:
        return next(reversed(self.all(keyword)), None)


def stages(text: str) -> dict[str, Stage]:
    """By name, in their order. What stands before the first FROM is a stage without a name."""
    found = [Stage("", "")]
    for keyword, rest in instructions(text):
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].instructions.append((keyword, rest))
    return {stage.name: stage for stage in found}


def instructions(text: str) -> Iterable[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, _, rest = line.strip().partition(" ")
            yield keyword.upper(), " ".join(rest.split())


def ancestry(found: dict[str, Stage], name: str) -> list[Stage]:
    """The stages that one is made of, the outermost first; not those that it only copies from."""
    stage = found.get(name)
    return [] if stage is None else [*ancestry(found, stage.base), stage]


def settings(found: dict[str, Stage], name: str, keyword: str = "ENV") -> dict[str, str]:
    """All of a stage's ENV, or LABEL, with those of the stages below it."""
    return {
        key: value
        for stage in ancestry(found, name)
        for rest in stage.all(keyword)
        for key, value in (word.split("=", 1) for word in shlex.split(rest))
    }


def problems(text: str, target: str) -> list[str]:
    """What hadolint does not know to ask of an image for a restricted pod."""
    found = stages(text)
    own = ancestry(found, target)
    wrong = []
    users = [user for stage in own for user in stage.all("USER")]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        wrong.append("USER must be a number above 0: Kubernetes cannot tell from a name that it is not root")
    if not settings(found, target).get("HOME", "").startswith("/tmp/"):
        wrong.append("HOME must be below /tmp, which is all that can be written to")
    if any(stage.all("HEALTHCHECK") for stage in own):
        wrong.append("HEALTHCHECK is nothing to Kubernetes, which has probes")
    if any(stage.all("ENTRYPOINT") for stage in own):
        wrong.append("ENTRYPOINT would stand before what KubeRay and the manifests run")
    for base in {stage.base for stage in found.values()} - set(found):
        if not re.fullmatch(r"\$\{\w+\}", base):
            wrong.append(
                f"FROM {base}: a base must be an ARG, so that it can be pinned by digest or come from a mirror"
            )
    for argument in found[""].all("ARG"):
        if not re.search(r":(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?$", argument):
            wrong.append(f"ARG {argument}: a base needs a tag other than latest")
    for stage in found.values():
        wrong += [
            f"{keyword} {rest}: a secret in an image is no secret"
            for keyword, rest in stage.instructions
            if keyword in {"ENV", "ARG"} and re.search(r"(?i)token=|secret|password|api_?key", rest)
        ]
        wrong += [
            f"{rest}: without --require-hashes"
            for rest in stage.all("RUN")
            if " -r " in rest and "pip install" in rest and "--require-hashes" not in rest
        ]
    return wrong


def is_left_out(path: str, ignore: str) -> bool:
    """Whether a .dockerignore keeps a file out of what is sent to the builder: the last line that fits decides."""
    left_out = False
    for line in ignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        back, pattern = pattern.startswith("!"), pattern.lstrip("!").strip("/")
        parents = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        if any(re.fullmatch(expression(pattern), one) for one in (path, *parents)):
            left_out = not back
    return left_out


def expression(pattern: str) -> str:
    """A pattern of .dockerignore as a regular expression: Go's filepath.Match, and `**` for any number of folders."""
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern)
    return "".join(
        meaning.get(part) or (part if part.startswith("[") and len(part) > 1 else re.escape(part)) for part in parts
    )
