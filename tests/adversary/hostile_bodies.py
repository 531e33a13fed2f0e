"""Hostile bodies: JSON, forms and pictures."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from typing import Any

from kinds import (
    ASLEEP,
    IMAGES,
    JSON,
    MIB,
    PATHS,
    PICTURE_PATHS,
    Made,
    body_for,
    chat,
    chunk,
    edit_form,
    embedding,
    encoded,
    form,
    jpeg,
    kind,
    many_scans,
    picture,
    png,
    posted,
    sent_form,
)
from sending import Manner, Request, http_request


@kind
def json_bombs(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    size = draw.choice([MIB, 4 * MIB, 8 * MIB - 100])

    def filled(start: bytes, unit: bytes, end: bytes) -> bytes:
        return start + unit * ((size - len(start) - len(end)) // len(unit)) + end

    raw = draw.choice(
        [
            lambda: filled(b"[", b"[],", b"[]]"),
            lambda: filled(b"[", b"{},", b"{}]"),
            lambda: b"[" * size,
            lambda: b"[" * (size // 2) + b"]" * (size // 2),
            lambda: b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
            lambda: filled(b'{"model":"x","input":[', b"1,", b"1]}"),
            lambda: filled(b'{"input":[', b"[1],", b"[1]]}"),
            lambda: filled(b'{"input":[', b'"a",', b'"a"]}'),
            lambda: filled(b'{"messages":[', b'{"role":"user","content":""},', b"{}]}"),
            lambda: filled(b"", b"9", b""),
            lambda: filled(b'{"temperature":0.', b"9", b"}"),
            lambda: filled(b'{"seed":1e', b"9", b"}"),
            lambda: filled(b'{"model":"', b"\\u0000", b'"}'),
            lambda: filled(b'{"model":"', b"\\ud83d", b'"}'),
            lambda: filled(b'{"a":"', b'\\"[{:,', b'"}'),
            lambda: filled(b"{", b'"a":1,', b'"a":1}'),
            lambda: b"{" + b",".join(b'"%x":1' % number for number in range(size // 12)) + b"}",
            lambda: filled(b"", b" ", b"{}"),
            lambda: filled(b'{"input":"', b"\\/", b'"}'),
            lambda: filled(b'{"logit_bias":{"1":1', b',"2":null', b"}}"),
            lambda: filled(b'{"tools":[', b'{"type":"function","function":{"name":"f"}},', b"{}]}"),
            lambda: filled(b"[", b"null,true,", b"-0]"),
        ]
    )()
    return posted(path, raw)


@kind
def not_json(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    valid = json.dumps(body_for(draw, path)).encode()
    at = draw.randrange(len(valid))
    return posted(
        path,
        draw.choice(
            [
                valid[:at],
                valid[:at] + bytes([draw.randrange(256)]) + valid[at + 1 :],
                valid + draw.choice([b"x", b"{}", b"\x00", b"\xff"]),
                valid.replace(b'"', b"'"),
                valid.decode().encode(draw.choice(["utf-16", "utf-32", "utf-16-be", "utf-7", "cp037"])),
                b"\xef\xbb\xbf" * draw.randint(1, 3) + valid,
                draw.randbytes(draw.choice([1, 100, 100_000])),
                draw.choice([b"NaN", b"Infinity", b"null", b"[]", b'""', b"5", b"true", b"", b"-", b"//", b"[1,]"]),
            ]
        ),
    )


@kind
def invalid_utf8(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    bad = draw.choice(
        [
            b"\xff",
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xf4\x90\x80\x80",
            b"\x80",
            b"\xe2\x28",
            b"\\ud800",
            b"\\udfff\\ud800",
            b"\x00",
            b"\\u0000",
        ]
    )
    raw = json.dumps(body_for(draw, path)).encode()
    places = [at for at in range(len(raw)) if raw[at - 1 : at].isalpha() and raw[at : at + 1].isalpha()]
    at = draw.choice(places)
    return posted(path, raw[:at] + bad * draw.choice([1, 1000]) + raw[at:])


@kind
def charsets(draw: random.Random) -> Made:
    """Codecs that a client names, wherever one can be named."""
    codec = draw.choice(
        [
            "punycode",
            "idna",
            "utf-7",
            "utf-16",
            "zlib",
            "bz2",
            "hex",
            "rot13",
            "unicode_escape",
            "raw_unicode_escape",
            "uu",
            "quopri",
            "base64",
            "undefined",
            "mbcs",
            "cp037",
            "iso2022_jp_ext",
            "hz",
            "utf_8_sig",
            "\xff",
            "../x",
            "x" * 9000,
            "",
        ]
    )
    long = ("a" * 200_000 + "-" + "b" * 200_000).encode()
    return draw.choice(
        [
            lambda: posted(
                "/v1/embeddings", embedding("a" * 100_000), f"Content-Type: application/json; charset={codec}"
            ),
            lambda: posted(
                "/v1/chat/completions", chat(draw), f'Content-Type: application/json;charset="{codec}"; charset=utf-8'
            ),
            lambda: sent_form(
                edit_form(draw, ('user"', long)), f"multipart/form-data; boundary=b0undary; charset={codec}"
            ),
            lambda: sent_form(edit_form(draw, ('_charset_"', codec.encode("latin-1")), ('user"', long))),
            lambda: sent_form(edit_form(draw, (f'user"\r\nContent-Type: text/plain; charset={codec}', long))),
            lambda: sent_form(edit_form(draw, (f"user\"; filename*={codec}''{'%41' * 2000}", long))),
            lambda: sent_form(edit_form(draw, (f'user"\r\nContent-Transfer-Encoding: {codec}', long))),
            lambda: sent_form(b"model=doodle&prompt=a" * 1000, f"application/x-www-form-urlencoded; charset={codec}"),
        ]
    )()


@kind
def compressed(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    packed = gzip.compress(json.dumps(body_for(draw, path)).encode() + b" " * draw.choice([0, 64 * MIB]), 1, mtime=0)
    coding = draw.choice(
        ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, gzip", "identity, gzip", "x", "\xff", "compress"]
    )
    where = draw.choice(["Content-Encoding", "Transfer-Encoding", "Content_Encoding"])
    made = http_request(f"POST {path} HTTP/1.1", packed, JSON, f"{where}: {coding}")
    return Request("", made, is_http=where != "Transfer-Encoding")


NO_LENGTHS = ("-1", "0x2", "2, 3", "+2", "2 2", "", "\xd9\xa2")


@kind
def bodies_over_the_limit(draw: random.Random) -> Made:
    path = draw.choice([*PATHS, *PICTURE_PATHS])
    return draw.choice(
        [
            lambda: posted(path, b"x" * draw.choice([9 * MIB, 12 * MIB])),
            lambda: sent_form(b"x" * (9 * MIB)),
            lambda: Request(
                "",
                http_request(
                    f"POST {path} HTTP/1.1", b"{}", JSON, f"Content-Length: {draw.choice([9 << 20, 1 << 40, 10**30])}"
                ),
                is_http=False,
                seconds=25,
            ),
            lambda: Request(
                "",
                http_request(
                    f"POST {path} HTTP/1.1",
                    b"{}",
                    JSON,
                    f"Content-Length: {draw.choice(NO_LENGTHS)}",
                ),
                is_http=False,
                seconds=25,
            ),
            lambda: http_request(
                f"POST {path} HTTP/1.1",
                b"%x\r\n%b\r\n0\r\n\r\n" % (9 * MIB, b"x" * (9 * MIB)),
                JSON,
                "Transfer-Encoding: chunked",
            ),
            lambda: http_request(
                f"POST {path} HTTP/1.1",
                b"{}",
                JSON,
                f"Expect: {draw.choice(['100-continue', 'x', '100-continue, x', ''])}",
            ),
        ]
    )()


NO_BOUNDARIES = ("", "other", "x" * 300, "\xff", '"', "b0undary; boundary=x", "b0undar")


@kind
def cut_forms(draw: random.Random) -> Made:
    whole = edit_form(draw, ('mask"; filename="m.png"', png(64, 64)), ('seed"', b"5"))
    return draw.choice(
        [
            lambda: sent_form(whole[: draw.randrange(20, len(whole))]),
            lambda: sent_form(
                whole,
                f"multipart/form-data; boundary={draw.choice(NO_BOUNDARIES)}",
            ),
            lambda: sent_form(form(draw, *[(f'x{number}"', b"") for number in range(draw.choice([201, 20_000]))])),
            lambda: sent_form(
                edit_form(draw, *[('image[]"; filename="a"', b"") for _ in range(draw.choice([33, 5000]))])
            ),
            lambda: sent_form(
                edit_form(draw, ('x"\r\n' + "".join(f"X-{n}: {n}\r\n" for n in range(20_000)) + "y: z", b"a"))
            ),
            lambda: sent_form(edit_form(draw, ('x"\r\nX-Long: ' + "y" * MIB, b"a"))),
            lambda: sent_form(
                edit_form(
                    draw,
                    (draw.choice(["", "a" * MIB, "loras[][name]", "controls[" * 5000, "\x00", "\xff"]) + '"', b"a"),
                )
            ),
            lambda: sent_form(b"--b0undary\r\n" * 50_000),
            lambda: sent_form(b"\r\n--b0undar" * 50_000),
            lambda: sent_form(draw.randbytes(100_000)),
            lambda: sent_form(edit_form(draw, end=b"--b0undary")),
            lambda: sent_form(edit_form(draw, ('loras"', b"[" * 100_000), ('n"', b"9" * 100_000))),
            lambda: sent_form(b"preamble" * 100_000 + b"\r\n" + whole),
        ]
    )()


def picture_bomb(draw: random.Random) -> bytes:
    packed = zlib.compress(b"\0" * (32 * MIB), 9)
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<H", 5000)
        + b"".join(struct.pack("<HHII", 0x1000 + number, 7, 60_000, 0) for number in range(5000))
    )
    side = draw.choice([1500, 4000, 4096])
    return draw.choice(
        [
            lambda: png(side, side),
            lambda: png(2, draw.choice([500_000, 8_000_000])),
            lambda: png(8_000_000, 2),
            lambda: png(2000, 2000, deep=16),
            lambda: png(65_535, 65_535, rows=zlib.compress(b"\0" * MIB)),
            lambda: png((1 << 31) - 1, (1 << 31) - 1, rows=b""),
            lambda: png(64, 64, chunk(b"zTXt", b"Comment\0\0" + packed)),
            lambda: png(64, 64, chunk(b"iCCP", b"p\0\0" + packed)),
            lambda: png(64, 64, *[chunk(b"tEXt", b"a\0b")] * 100_000),
            lambda: png(64, 64, chunk(b"eXIf", exif[6:])),
            lambda: png(64, 64, chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))),
            lambda: png(64, 64, chunk(b"acTL", struct.pack(">II", 1 << 30, 0))),
            lambda: png(64, 64, rows=zlib.compress(b"\0" * (200 * MIB), 9)),
            lambda: many_scans(draw),
            lambda: jpeg(exif=exif[: draw.choice([100, 60_000])]),
            lambda: jpeg(3000, progressive=True),
            lambda: b"".join([jpeg()[:2], b"\xff\xfe\0\2" * 500_000, jpeg()[2:]]),
            lambda: jpeg()[: draw.randrange(4, 600)],
            lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L" + draw.randbytes(200),
            lambda: b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff",
            lambda: (
                draw.choice([b"GIF89a", b"BM", b"II*\0", b"\0\0\1\0", b"<svg/>", b"%PDF", b"%!PS"])
                + draw.randbytes(300)
            ),
        ]
    )()


@kind
def picture_bombs(draw: random.Random) -> Made:
    """Small files that are large pictures, or that say much of themselves."""
    bomb = picture_bomb(draw)
    fine = png(64, 64)
    image, mask = draw.choice([(bomb, None), (bomb, None), (fine, bomb), (bomb, bomb)])
    if draw.random() < 0.5:
        parts = [('model"', IMAGES.encode()), ('prompt"', b"a"), ('image"; filename="a"', image)]
        return sent_form(form(draw, *parts, *([('mask"; filename="m"', mask)] if mask else [])))
    document: dict[str, Any] = picture(image=encoded(image)) | ({"mask": encoded(mask)} if mask else {})
    path = draw.choice(["/v1/images/edits", "/v1/images/edits", "/v1/images/variations"])
    if path.endswith("variations"):
        document.pop("prompt")
        document.pop("mask", None)
    return posted(path, document)


@kind
def more_picture_bombs(draw: random.Random) -> Made:
    """Several at once, wide outputs, links that are none."""
    bomb = encoded(png(draw.choice([2000, 4000]), 4000))
    return draw.choice(
        [
            lambda: Request(
                "",
                posted(
                    "/v1/images/edits", picture(image=bomb, n=4, output_format=draw.choice(["webp", "png", "jpeg"]))
                ),
                connections=6,
            ),
            lambda: posted("/v1/images/edits", picture(image=encoded(png(17_000, 2)), output_format="webp")),
            lambda: posted(
                "/v1/images/edits",
                picture(
                    image=draw.choice(
                        [
                            "http://127.0.0.1:8265/api/version",
                            "file:///etc/passwd",
                            "data:image/png;base64,",
                            "data:;base64," + "A" * MIB,
                            "AAAA",
                            "=" * MIB,
                            "\x00",
                        ]
                    )
                ),
            ),
            lambda: posted(
                "/v1/images/generations",
                picture(
                    size=draw.choice(["0x0", "1x99999999", "99999x99999", "x", "-64x64", "64x64x64", "6" * 40, "٦٤x٦٤"])
                ),
            ),
            lambda: posted("/v1/images/generations", picture(controls=[{"type": "canny", "image": bomb}] * 8)),
            lambda: posted("/v1/images/generations", picture(loras=[{"name": "x" * 101}] * 17, prompt="\x00" * 1000)),
        ]
    )()


@kind
def models_that_sleep(draw: random.Random) -> Made:
    """Whoever asks a model that sleeps wakes it: many times, and gone before it is up."""
    path = draw.choice(list(ASLEEP))
    body: dict[str, Any] = {"model": ASLEEP[path]}
    body |= {"prompt": "a tree"} if path.endswith("generations") else {"image": encoded(picture_bomb(draw))}
    if path.endswith("styles"):
        body |= {"style": draw.choice(["x", "\x00", 5])} if draw.random() < 0.5 else {"style_image": body["image"]}
    prefer = draw.choice(["wait=0", "wait=1", "wait=1e9", "wait=-1", "wait=nan", 'wait="0', "wait=" + "9" * 400])
    manner = draw.choice([Manner.WHOLE, Manner.LEAVES])
    return Request("", posted(path, body, JSON, f"Prefer: {prefer}"), manner=manner, seconds=30)
