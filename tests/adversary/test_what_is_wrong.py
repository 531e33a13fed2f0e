"""What the adversary's tests call wrong, on answers that are: they run seldom, and must not pass in silence."""

import json
import random

import hostile
import pytest
from figures import broken, never, promise, table
from judging import faults_of, own_replies
from polite import Asked
from sending import Answer, Exchange, Manner, Request, answers_in, http_request

JSON = {"content-type": "application/json"}
ERROR = json.dumps({"error": {"message": "no", "type": "t", "param": None, "code": "c"}}).encode()
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
ASK = Request("any", http_request("POST /v1/embeddings HTTP/1.1", b"{}"))
IN_A_HURRY = Request("any", http_request("POST /v1/embeddings HTTP/1.1", b"{}", "x_deadline: 0.1"))


def judged(*answers: Answer, asked: Request = ASK, whole: bool = True) -> list[str]:
    return faults_of(asked, Exchange(list(answers), whole, False, 1.0))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(200, JSON, b"{}"), ""),
        (Answer(400, JSON, ERROR), ""),
        (Answer(503, JSON | {"retry-after": "2"}, ERROR), ""),
        (Answer(500, JSON, ERROR), "a failure of the server"),
        (Answer(502, JSON | {"retry-after": "2"}, ERROR), "a failure of the server"),
        (Answer(503, JSON, ERROR), "without Retry-After"),
        (Answer(429, JSON, ERROR), "without Retry-After"),
        (Answer(504, JSON, ERROR), "a failure of the server"),
        (Answer(307, {"location": "/"}, b""), "a redirect"),
        (Answer(400, {"content-type": "text/html"}, b"<html>"), "content-type 'text/html'"),
        (Answer(400, JSON, b'{"detail": "no"}'), "no error object"),
        (Answer(400, JSON, b'{"error": {"message": "no"}}'), "the error has"),
        (Answer(400, JSON, ERROR.replace(b'"no"', b"5")), "not all are texts"),
        (Answer(400, JSON, ERROR.replace(b"no", b"Traceback (most recent call last)")), "internal text"),
        (Answer(200, STREAM, b'data: {"error":{"code":"engine_failed"}}\n\n'), "a stream ends with engine_failed"),
        (Answer(0, {}, b"what"), "not an answer of HTTP"),
    ],
)
def test_what_is_wrong_with_an_answer(answer, fault):
    found = judged(answer)
    assert (fault in str(found)) if fault else found == []


def test_an_answer_must_come_unless_it_was_no_request():
    assert judged() == ["closed without an answer"]
    assert judged(asked=Request("any", b"\x16\x03", is_http=False)) == []
    assert judged(asked=Request("any", ASK.raw, Manner.LEAVES)) == []
    late = Exchange([], False, True, 60.0)
    assert faults_of(ASK, late) == ["no answer within 60.0 s"]
    assert faults_of(Request("any", ASK.raw, is_long=True), late) == []


def test_who_sets_a_deadline_may_be_told_that_it_passed():
    assert judged(Answer(504, JSON, ERROR), asked=IN_A_HURRY) == []


def test_replies_to_what_is_no_http_are_counted_and_no_faults():
    asked = Request("any", b"EHLO\r\n\r\n", is_http=False)
    found = Exchange([Answer(400, {"content-type": "text/html"}, b"<html>")], True, False, 0.1)
    assert faults_of(asked, found) == []
    assert len(own_replies(asked, found)) == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    ("data", "method", "found"),
    [
        (CHUNKED, "GET", ([(200, b"ab")], True)),
        (CHUNKED + SIZED, "GET", ([(200, b"ab"), (404, b"abc")], True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, "POST", ([(404, b"abc")], True)),
        (SIZED[:-1], "GET", ([(404, b"ab")], False)),
        (CHUNKED[:-5], "GET", ([(200, b"ab")], False)),
        (SIZED[:-3], "HEAD", ([(404, b"")], True)),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "GET", ([(200, b"abc")], False)),
        (b"", "GET", ([], False)),
    ],
)
def test_answers_are_found_in_what_comes(data, method, found):
    answers, whole = answers_in(data, method)
    assert ([(answer.status, answer.body) for answer in answers], whole) == found


def test_a_seed_gives_the_same_requests_and_another_seed_others_of_the_same_kinds(monkeypatch):
    one, other = (hostile.plan(seed, 7, hostile.ATTACKS) for seed in (1, 2))
    assert len(one) >= 200
    assert sorted(name for name, _ in one) == sorted(name for name, _ in other)
    firsts = {kind: hostile.made(kind, 0) for kind in hostile.KINDS}
    monkeypatch.setattr("time.time", lambda: 0.0)  # also at another time: gzip would write it into its header
    assert hostile.plan(1, 7, hostile.ATTACKS) == one
    assert {kind: hostile.made(kind, 0) for kind in hostile.KINDS} == firsts
    for kind in random.sample(sorted(hostile.KINDS), 5):
        assert len({hostile.made(kind, number).raw for number in range(8)}) > 2, kind


def test_promises_that_are_broken_are_told():
    seconds = promise("embeddings").duration_s or 0
    answered = [
        Asked(task, 0.0, 200, "", 0.1, 0.1, 0.1) for task in ("embeddings", "chat", "images") for _ in range(200)
    ]
    assert broken(answered) == []
    assert "| embeddings | duration_s | 200, 200 | 0.100, 0.100, 0.100 |" in table(answered, answered)
    late = [Asked("embeddings", 0.0, 200, "", 1000 * seconds)] * 3
    assert broken(answered + late) == ["embeddings: 200 of 203 keep duration_s of 1 s, 99% should"]
    refused = Asked("embeddings", 0.0, 429, "busy", 0.1, retry_after="1")
    assert broken([*answered, refused]) == []
    assert len(broken([*answered, *[refused] * 3])) == 1
    assert never([*answered, refused]) == []
    for one in (
        Asked("chat", 0.0, 500, "x"),
        Asked("images", 0.0, 200, "wrong"),
        Asked("embeddings", 0.0, 429, "busy"),
        Asked("readyz", 0.0, 503, "", 0.1, retry_after="2"),
        Asked("chat", 0.0, 0, "ReadTimeout"),
    ):
        assert never([*answered, one]) == [str(one)]
