"""Forms as the RFCs have them: what is whole is read, what is not is refused, and texts are UTF-8."""

import pytest

from deployments.router.multipart import document_of_form
from models.errors import InvalidRequest, ServingError

END = b"--b--\r\n"


@pytest.fixture
def image_app(shared_image_app):
    return shared_image_app


def part(name: str, value: bytes, more: str = "", headers: str = "") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{more}{headers}\r\n\r\n'
    return head.encode() + value + b"\r\n"


@pytest.fixture
def edit(images, png):
    """Posts a form of an edit: a picture, and what is given."""

    async def post(*parts: bytes, start: bytes = b"", end: bytes = END, of: str = ""):
        raw = start + part("prompt", b"a") + part("image", png(), '; filename="a.png"') + b"".join(parts) + end
        content_type = of or "multipart/form-data; boundary=b"
        return await images.post("/v1/images/edits", content=raw, headers={"content-type": content_type})

    return post


@pytest.mark.parametrize(
    "cut",
    [
        b"",
        b"--b",
        b"--b-",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="mask"; filename="m"\r\n\r\n\x89PNG',
        b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n5',
        b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n5\r\n--b',
        b"--b\r\nContent-Disposition: form-data; na",
        b"--c--\r\n",
    ],
)
async def test_a_form_whose_end_is_cut_off_is_never_carried_out(edit, assert_error, cut):
    error = assert_error(await edit(end=cut), 400)
    assert "not a whole multipart form" in error["message"]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (b"", b"--b--"),
        (b"", b"--b--\r\nan epilogue\r\n--b\r\n"),
        (b"for readers without MIME\r\n", END),
        (b"two\r\nlines --b\r\n", END),
        (b"\r\n", END),
    ],
)
async def test_what_stands_around_a_form_is_ignored(edit, start, end):
    response = await edit(start=start, end=end)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "more",
    [
        part("seed", b"5", headers="\r\nContent-Type: text/plain; charset=UTF-8"),
        part("seed", b"5", headers="\r\nContent-Transfer-Encoding: 8bit"),
        part("seed", b"5", headers="\r\nContent-Type: text/plain\r\nX-More: ü"),
        part("_charset_", b"utf-8") + part("seed", b"5"),
        b"--b \t\r\nContent-Disposition: form-data; name=seed\r\n\r\n5\r\n",
    ],
)
async def test_what_a_form_may_say_of_its_parts(edit, more):
    response = await edit(more)
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["seed"] == 5


@pytest.mark.parametrize("charset", ["punycode", "hex", "utf-16", "utf-7", "idna", "latin-1", "nothing", "", "zip"])
@pytest.mark.parametrize("where", ["form", "part", "field"])
async def test_no_charset_but_utf_8_is_taken_wherever_it_is_named(edit, assert_error, charset, where):
    match where:
        case "form":
            response = await edit(of=f'multipart/form-data; boundary=b; charset="{charset}"')
        case "part":
            response = await edit(part("seed", b"5", headers=f'\r\nContent-Type: text/plain; charset="{charset}"'))
        case _:
            response = await edit(part("_charset_", charset.encode()))
    assert "UTF-8" in assert_error(response, 415, "unsupported_media_type")["message"]


@pytest.mark.parametrize(("more", "headers"), [(";" * 3000, ""), ("", "\r\nContent-Type: text/plain" + ";a=b" * 700)])
async def test_parameters_without_end_are_refused_in_parts_too(edit, assert_error, more, headers):
    response = await edit(part("seed", b"5", more, headers))
    assert "parameters" in assert_error(response, 400)["message"]


@pytest.mark.parametrize("coding", ["base64", "quoted-printable", "x-gzip"])
async def test_parts_that_are_encoded_are_refused(edit, assert_error, coding):
    response = await edit(part("seed", b"NQ==", headers=f"\r\nContent-Transfer-Encoding: {coding}"))
    assert_error(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "broken",
    [
        part("negative_prompt", b"\xff"),
        part("negative_prompt", "é".encode("latin-1")),
        part("negative_prompt", "a".encode("utf-16")),
        b"--b\r\nContent-Disposition: form-data; name*=utf-8''seed\r\n\r\n5\r\n",
        b'--b\r\nContent-Disposition: form-data; name="=?utf-8?q?seed?="\r\n\r\n5\r\n',
        b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\n5\r\n',
        b'--b\r\nContent-Disposition: form-data; name="s\xff"\r\n\r\n5\r\n',
        b"--b\r\nContent-Type: text/plain\r\n\r\n5\r\n",
        b'--b\nContent-Disposition: form-data; name="seed"\n\n5\n',
        b"--b\r\n" + b"A: b\r\n" * 20 + b"\r\n5\r\n",
        b"--b\r\nA: " + b"b" * 100_000 + b"\r\n\r\n5\r\n",
        part("mask", b"", '; filename="a"') + part("mask", b"", '; filename="b"'),
        part("loras", b"[" + b"[]," * 70_000 + b"[]]"),
    ],
    ids=range(13),
)
async def test_a_part_that_cannot_be_read_is_a_clear_refusal(edit, assert_error, broken):
    response = await edit(broken)
    assert_error(response)
    assert response.status_code in (400, 413)


@pytest.mark.parametrize("boundary", ["b'()+_,-./:=?", "-" * 70, "b b"])
def test_boundaries_of_odd_characters(boundary):
    mark = b"--" + boundary.encode()
    raw = mark + b'\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' + mark + b"--"
    assert document_of_form(raw, boundary.encode()) == {"a": "1"}


@pytest.mark.parametrize("boundary", [b"", b"b" * 300])
def test_boundaries_that_are_none(boundary):
    with pytest.raises(InvalidRequest):
        document_of_form(b"--" + boundary + b"--", boundary)


def test_a_picture_without_a_file_name_is_a_file_all_the_same():
    raw = part("image", b"\x89PNG", headers="\r\nContent-Type: image/png") + END
    assert document_of_form(raw, b"b") == {"image": b"\x89PNG"}


def test_a_form_is_the_same_whatever_comes_before_a_bracket_in_its_text():
    with pytest.raises(ServingError):
        document_of_form(part("a", b"[" * 70_000) + END, b"b")
    text = b'"' + b"[" * 70_000 + b'"'
    assert document_of_form(part("a", text) + END, b"b") == {"a": text.decode()}
