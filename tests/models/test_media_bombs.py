"""Small files that would cost much memory or time. Each is refused, or read at the price of its pixels."""

import io
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_media import chunk, png_of, quarters, saved

from models.errors import InvalidMedia
from models.media.decoding import decode_image
from models.media.headers import MOST_PARTS, inspect_image
from models.media.memory import decoding_bytes
from models.media.metadata import EXIF, orientation_of, without_metadata


def exif_that_repeats_itself(orientation: int = 6, entries: int = 5000) -> bytes:
    """Each of its entries names the whole block as its value. Together they are hundreds of megabytes."""
    first = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    others = b"".join(struct.pack("<HHII", 0x1000 + n, 7, 60_000, 0) for n in range(entries))
    return EXIF + b"II*\0\x08\0\0\0" + struct.pack("<H", entries + 1) + first + others


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """Without JFIF's segment: then Pillow looks into EXIF for the resolution, whenever it opens the file."""
    data = saved(Image.fromarray(quarters()), "jpeg", quality=100)
    after_jfif = 4 + int.from_bytes(data[4:6])
    added = b"".join(bytes((0xFF, mark)) + struct.pack(">H", len(body) + 2) + body for mark, body in segments)
    return data[:2] + added + data[after_jfif:]


def multi_picture_index() -> bytes:
    return b"MPF\0" + exif_that_repeats_itself().removeprefix(EXIF)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (jpeg_with((0xE1, exif_that_repeats_itself())), (40, 24)),
        (jpeg_with((0xE1, exif_that_repeats_itself(1)), (0xE1, exif_that_repeats_itself())), (24, 40)),
        (jpeg_with((0xE2, multi_picture_index())), (24, 40)),
        (jpeg_with((0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5000)), (24, 40)),
        (saved(Image.fromarray(quarters()), "png", exif=exif_that_repeats_itself()), (40, 24)),
        (saved(Image.fromarray(quarters()), "webp", exif=exif_that_repeats_itself()), (40, 24)),
    ],
    ids=["exif", "two exifs", "mpf", "photoshop", "png", "webp"],
)
def test_what_a_file_says_of_itself_is_not_unpacked(data, shape):
    decode_image(saved(Image.fromarray(quarters())), 1, "image")  # the libraries are loaded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        try:
            decoded = decode_image(data, 1, "image")
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
    assert decoded.pixels.shape[:2] == shape


def test_the_colours_of_a_jpeg_do_not_depend_on_its_metadata():
    for options in ({"mode": "CMYK"}, {"mode": "RGB", "keep_rgb": True}, {"mode": "L"}):
        image = Image.fromarray(quarters()).convert(options.pop("mode"))
        data = saved(image, "jpeg", quality=100, comment=b"x" * 100, exif=EXIF + b"II*\0", **options)
        plain, _ = without_metadata(data, "jpeg")
        assert len(plain) < len(data) - 100
        with Image.open(io.BytesIO(data)) as whole, Image.open(io.BytesIO(plain)) as kept:
            assert np.array_equal(np.asarray(whole), np.asarray(kept))


BROKEN_BLOCKS = [b"", b"II", EXIF, EXIF + b"MM\0*\0\0\0\xff", EXIF + b"II*\0\x08\0\0\0\xff\xff", b"XX" * 9]


@pytest.mark.parametrize("block", BROKEN_BLOCKS)
def test_a_broken_block_is_upright(block):
    assert orientation_of(block) == 1


COMMENTS = b"\xff\xfe\0\2" * (2 * MOST_PARTS)


def many(kind: bytes, body: bytes = b"") -> bytes:
    end = chunk(b"IEND", b"")
    return png_of(1, 1, b"\0\0\0\0").removesuffix(end) + chunk(kind, body) * (20 * MOST_PARTS) + end


@pytest.mark.parametrize(
    "data",
    [
        many(b"IDAT"),
        many(b"teXt", b"a"),
        jpeg_with(*[(0xFE, b"")] * (MOST_PARTS + 1)),
        saved(Image.fromarray(quarters()), "jpeg").replace(b"\xff\xda", COMMENTS + b"\xff\xda", 1),
    ],
    ids=["png data", "png text", "jpeg before its frame", "jpeg after it"],
)
def test_a_file_of_very_many_parts_is_refused(data):
    with pytest.raises(InvalidMedia, match="broken"):
        decode_image(data, 1, "image")


def test_a_profile_of_stages_without_end_is_ignored():
    """Such a profile may name one stage a hundred thousand times, to be gone through for each colour."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + b"mpet"
    data = saved(Image.fromarray(quarters()), icc_profile=profile)
    assert np.array_equal(decode_image(data, 1, "image").pixels, quarters())


def test_two_sizes_in_one_file_are_refused():
    """Room is made for the first; Pillow takes the last."""
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 900, 900, 8, 2, 0, 0, 0))
    with pytest.raises(InvalidMedia, match="broken"):
        decode_image(png_of(10, 10, b"\0" * 310, second), 1, "image")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_python_sees_of_decoding_is_within_what_is_counted(kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 4), np.uint8), "RGBA")
    data = saved(image.convert("RGB") if kind == "jpeg" else image, kind, exif=exif_that_repeats_itself(entries=0))
    tracemalloc.start()
    try:
        decode_image(data, 1, "image")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < decoding_bytes(data, inspect_image(data, 1, "image"))
