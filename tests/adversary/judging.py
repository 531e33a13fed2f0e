"""What an answer must be, whatever was asked: never a failure of the server, and every error in OpenAI's form."""

from __future__ import annotations

import json
import re

from sending import Answer, Exchange, Manner, Request

# Text that no client may see: of exceptions, and where our files lie.
INTERNAL = re.compile(rb"Traceback|site-packages|File \"|ray::|\.py\b.{0,20}line \d")
FAILURES = ("internal_error", "engine_failed")


def faults_of(request: Request, found: Exchange) -> list[str]:
    """What is wrong with the answers to a request."""
    wrong = []
    waits = request.manner is Manner.WHOLE and request.is_http and not (found.late and request.is_long)
    if waits and not found.answers:
        wrong.append(f"no answer within {found.seconds:.1f} s" if found.late else "closed without an answer")
    for answer in found.answers:
        wrong += faults_of_answer(request, answer, found)
    return wrong


def faults_of_answer(request: Request, answer: Answer, found: Exchange) -> list[str]:
    status, wrong = answer.status, []
    complete = found.whole or answer is not found.answers[-1]
    if status == 0:
        return [] if not request.is_http else [f"not an answer of HTTP: {answer.body[:80]!r}"]
    if 300 <= status < 400 and status != 304:
        wrong.append(f"{status}: a redirect")
    if status >= 500 and not is_honest(request, answer):
        wrong.append(f"{status}: a failure of the server")
    if status in (429, 503) and not answer.headers.get("retry-after", "").isdigit():
        wrong.append(f"{status} without Retry-After")
    if status >= 400 and complete and request.is_http and not request.raw.startswith(b"HEAD "):
        wrong += [f"{status}: {problem}" for problem in problems_of_error(answer)]
    if status == 200 and answer.headers.get("content-type", "").startswith("text/event-stream"):
        wrong += [f"a stream ends with {code}" for code in FAILURES if f'"code":"{code}"'.encode() in answer.body]
    if INTERNAL.search(answer.body[:20_000]) and not answer.headers.get("content-type", "").startswith("text/html"):
        wrong.append(f"{status}: internal text: {answer.body[:200]!r}")
    return wrong


def own_replies(request: Request, found: Exchange) -> list[str]:
    """Errors without OpenAI's form to bytes that are no HTTP: HAProxy's own, or those of the server behind it."""
    if request.is_http or not found.whole:
        return []
    return [
        f"{answer.status} {answer.body[:60]!r}"
        for answer in found.answers
        if answer.status >= 400 and problems_of_error(answer)
    ]


def is_honest(request: Request, answer: Answer) -> bool:
    """A 503 that says when to come again; or a 504 where the client set the time itself."""
    if answer.status == 504:
        return re.search(rb"(?im)^x[-_]deadline\s*:", request.raw[:70_000]) is not None
    return answer.status == 503 and "retry-after" in answer.headers


def problems_of_error(answer: Answer) -> list[str]:
    """Why an error is none of OpenAI's form."""
    kind = answer.headers.get("content-type", "")
    if kind.partition(";")[0] != "application/json":
        return [f"content-type {kind!r}: {answer.body[:80]!r}"]
    try:
        error = json.loads(answer.body)["error"]
        if set(error) != {"message", "type", "param", "code"}:
            return [f"the error has {sorted(error)}"]
        texts = [error["message"], error["type"], error["code"], error["param"] or "none"]
    except (ValueError, KeyError, TypeError):
        return [f"no error object: {answer.body[:80]!r}"]
    return (
        [] if all(isinstance(text, str) and text for text in texts) else [f"not all are texts: {answer.body[:200]!r}"]
    )
