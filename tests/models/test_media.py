"""Pictures from strangers: whatever the bytes, the answer is pixels or a clear refusal."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from models.errors import InvalidMedia, PayloadTooLarge, ServingError
from models.media.decoding import MOST_JPEG_SCANS, decode_image
from models.media.headers import MOST_PARTS, inspect_image

FORMATS = ["png", "jpeg", "webp"]


def saved(image: Image.Image, kind: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind.upper(), **options)
    return file.getvalue()


def quarters(width: int = 40, height: int = 24) -> np.ndarray:
    """Red, green over blue, white: every turn and mirror of it is another picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 255, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 255
    pixels[height // 2 :, width // 2 :] = 255, 255, 255
    return pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, pixels: bytes = b"", *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_comes_out_as_it_went_in(kind):
    pixels = quarters()
    data = saved(Image.fromarray(pixels), kind, quality=100)
    header = inspect_image(data, 1, "image")
    assert (header.format, header.width, header.height, header.animated) == (kind, 40, 24, False)
    decoded = decode_image(data, 1, "image")
    assert decoded.alpha is None
    assert decoded.pixels.dtype == np.uint8
    middles = slice(6, None, 12), slice(10, None, 20)
    assert np.abs(decoded.pixels[middles].astype(int) - pixels[middles]).max() <= (0 if kind == "png" else 8)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"exif": Image.Exif()}])
def test_every_kind_of_webp_is_measured(options):
    header = inspect_image(saved(Image.fromarray(quarters(301, 77)), "webp", **options), 1, "image")
    assert (header.width, header.height) == (301, 77)


@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_measured(progressive):
    data = saved(Image.fromarray(quarters(301, 77)), "jpeg", progressive=progressive, comment=b"x" * 60_000)
    assert (inspect_image(data, 1, "image").width, inspect_image(data, 1, "image").height) == (301, 77)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_orientation_in_exif_is_applied(kind, orientation):
    upright = Image.fromarray(quarters())
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(saved(stored, kind, exif=exif, quality=100), 1, "image").pixels
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded[4::16, 5::30].astype(int) - quarters()[4::16, 5::30]).max() < 60


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_cost_the_picture():
    data = saved(Image.fromarray(quarters()), "jpeg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffnonsense", quality=100)
    assert decode_image(data, 1, "image").pixels.shape == (24, 40, 3)


def test_grey_of_sixteen_bits_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = decode_image(saved(Image.fromarray(ramp)), 1, "image").pixels
    assert np.array_equal(decoded[..., 0], ramp >> 8)
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_every_opaque_mode_keeps_its_colours(mode):
    black_and_white = Image.fromarray(np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((8, 8), np.uint8)))
    source = black_and_white if mode in ("1", "L") else black_and_white.convert("RGB")
    data = saved(source.convert(mode), "jpeg" if mode == "CMYK" else "png")
    decoded = decode_image(data, 1, "image")
    assert decoded.alpha is None
    assert np.abs(decoded.pixels.astype(int) - np.array(black_and_white.convert("RGB"))).max() < 5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_kept_beside_the_colours(mode):
    image = Image.fromarray(np.full((8, 8), 200, np.uint8)).convert("RGBA")
    alpha = np.kron(np.array([[0, 255], [128, 64]], np.uint8), np.ones((4, 4), np.uint8))
    image.putalpha(Image.fromarray(alpha))
    data = saved(image.convert("LA" if mode == "PA" else mode), "png")
    decoded = decode_image(data, 1, "image")
    assert np.array_equal(decoded.alpha, alpha)
    assert decoded.pixels.shape == (8, 8, 3)
    assert (decoded.pixels == 200).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_a_colour_that_means_transparent_is_alpha(mode):
    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    image = Image.fromarray(pixels) if mode != "I;16" else Image.fromarray(pixels.astype(np.uint16))
    if mode == "P":
        image.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40])
    data = saved(image.convert("RGB") if mode == "RGB" else image, transparency=(1, 1, 1) if mode == "RGB" else 1)
    assert np.array_equal(decode_image(data, 1, "image").alpha, [[255, 0], [255, 255]])


def test_a_profile_that_cannot_be_applied_is_ignored():
    lab = ImageCms.createProfile("LAB")
    data = saved(Image.fromarray(quarters()), icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert np.array_equal(decode_image(data, 1, "image").pixels, quarters()), "a profile of another kind is ignored"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(Image.fromarray(quarters()), icc_profile=srgb)
    assert np.abs(decode_image(data, 1, "image").pixels.astype(int) - quarters()).max() <= 1
    assert decode_image(saved(Image.fromarray(quarters()), icc_profile=b"junk"), 1, "image").pixels.shape


def with_swapped_primaries() -> bytes:
    """An sRGB profile with the columns of red and blue exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


@pytest.mark.parametrize("kind", FORMATS)
def test_colours_are_what_the_profile_says(kind):
    data = saved(Image.new("RGB", (16, 16), (255, 0, 0)), kind, icc_profile=with_swapped_primaries(), quality=100)
    red, _, blue = decode_image(data, 1, "image").pixels[8, 8]
    assert blue > 240
    assert red < 15


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_over_the_limit_are_refused_by_the_header(kind):
    data = saved(Image.new("RGB", (1001, 1000)), kind)
    with pytest.raises(PayloadTooLarge, match=r"1001x1000 = 1\.001 megapixels; at most 1 ") as caught:
        inspect_image(data, 1, "mask")
    assert caught.value.param == "mask"
    assert inspect_image(data, 1.001, "mask").width == 1001


@pytest.mark.parametrize(
    "bomb",
    [
        png_of(100_000, 100_000, b"\0" * 1000),
        png_of(2**31 - 1, 2**31 - 1),
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + b"\0" * 100,
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + b"\0" * 100,
    ],
    ids=["png", "largest png", "webp", "jpeg"],
)
def test_a_bomb_costs_nothing(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decode_image(bomb, 25, "image")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_text_that_grows_when_it_is_unpacked_is_refused():
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (200 << 20)))
    with pytest.raises(InvalidMedia):
        decode_image(png_of(1, 1, b"\0\0\0\0", bomb), 1, "image")


@pytest.mark.parametrize(("kind", "width", "height"), [("png", 0, 5), ("png", 5, 0), ("webp", 0, 5)])
def test_a_picture_without_pixels_is_refused(kind, width, height):
    data = png_of(width, height)
    if kind == "webp":
        data = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    with pytest.raises(InvalidMedia, match="no pixels"):
        inspect_image(data, 1, "image")


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_an_animation_is_refused(kind):
    frames = [Image.fromarray(quarters()), Image.fromarray(255 - quarters())]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(InvalidMedia, match="animated"):
        inspect_image(data, 1, "image")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "TGA"])
def test_other_formats_are_refused(kind):
    with pytest.raises(InvalidMedia, match="png, jpeg or webp"):
        decode_image(saved(Image.fromarray(quarters()), kind), 1, "image")


@pytest.mark.parametrize(
    "data",
    [b"", b"text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF", b"RIFF\0\0\0\0WAVE", b"PK"],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(InvalidMedia):
        decode_image(data, 1, "image")


def test_a_jpeg_of_very_many_scans_is_refused():
    data = saved(Image.fromarray(quarters()), "jpeg", progressive=True)
    decode_image(data, 1, "image")
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(InvalidMedia, match="scans"):
        decode_image(data[:-2] + scan * MOST_JPEG_SCANS + data[-2:], 1, "image")


@pytest.mark.parametrize(
    "data",
    [
        png_of(1, 1, b"", *[chunk(b"teXt", b"")] * (MOST_PARTS + 1)),
        b"\xff\xd8" + b"\xff" * (8 << 20),
        b"\xff\xd8" + b"\xff\x01" * (4 << 20),
    ],
    ids=["chunks", "padding", "markers"],
)
def test_a_header_that_never_ends_is_given_up(data):
    with pytest.raises(InvalidMedia):
        inspect_image(data, 1, "image")


WHOLE = {
    kind: saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)), kind)
    for kind in FORMATS
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_refused_wherever_it_is_cut(kind):
    data = WHOLE[kind]
    ends_early = len(data) - 14 if kind == "png" else len(data) - 3  # what follows the pixels of a png is not missed
    for end in range(0, ends_early, 13):
        with pytest.raises(InvalidMedia):
            decode_image(data[:end], 1, "image")


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0/"]
    ),
    st.binary(max_size=300),
)
def test_any_bytes_are_pixels_or_a_refusal(magic, rest):
    only_refused(magic + rest)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), st.data()
)
def test_any_damage_to_a_real_file_is_pixels_or_a_refusal(kind, damages, data):
    damaged = bytearray(WHOLE[kind])
    for at, value in damages:
        damaged[at % min(len(damaged), 200)] = value
    only_refused(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def only_refused(data: bytes) -> None:
    refusal = None
    try:
        decoded = decode_image(data, 1, "image")
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.ndim == 3
    except ServingError as error:
        refusal = error
    if refusal:
        assert refusal.status in (400, 413)
        assert refusal.param == "image"
        assert "Error" not in refusal.message
