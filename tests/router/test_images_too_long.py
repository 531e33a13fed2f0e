"""A side that the format cannot have is refused before the work, not after it."""

import base64
import io

import pytest
from PIL import Image

from models.media.formats import LONGEST_SIDE


def long(side: int, kind: str = "png") -> str:
    file = io.BytesIO()
    Image.new("L", (side, 1)).save(file, kind)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
@pytest.mark.parametrize("path", ["edits", "variations", "upscales", "styles"])
async def test_the_longest_side_is_made_and_one_more_is_refused(
    *, images, painter, upscaler, styler, assert_error, path, kind
):
    more = {"edits": {"prompt": "a"}, "styles": {"style": "negative"}}.get(path, {}) | {"output_format": kind}
    most = LONGEST_SIDE[kind] // (4 if path == "upscales" else 1)
    error = assert_error(await images.post(f"/v1/images/{path}", json=more | {"image": long(most + 1)}), 400)
    assert error["param"] == "output_format"
    assert "png" in error["message"]
    assert painter.requests == upscaler.requests == styler.requests == []
    if path in ("edits", "variations"):
        sized = more | {"image": long(most + 1), "size": "64x64"}
        assert (await images.post(f"/v1/images/{path}", json=sized)).status_code == 200
    assert (await images.post(f"/v1/images/{path}", json=more | {"image": long(most)})).status_code == 200


async def test_base64_with_spaces_between_is_read(images):
    """Of eight megabytes of it no millions of small texts are made."""
    url = long(64)
    spaced = url[:22] + "\n".join(url[at : at + 3] for at in range(22, len(url), 3))
    assert (await images.post("/v1/images/variations", json={"image": spaced})).status_code == 200
    for broken in (url + "é", url + "\0", url + "\u2003"):
        assert (await images.post("/v1/images/variations", json={"image": broken})).status_code == 400
