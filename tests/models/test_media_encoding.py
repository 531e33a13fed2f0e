"""Files that we make: whole, the same each time, and honest about what they are."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from models.media.decoding import decode_image
from models.media.encoding import EDITED, GENERATED, encode_image
from models.media.formats import Output

FORMATS = ["png", "jpeg", "webp"]
FACTS = {"model": "doodle", "variant": "cpu-fp32", "seed": "7", "steps": "20", "guidance": "7.5", "scheduler": "ddim"}
PIXELS = np.random.default_rng(3).integers(0, 256, (17, 23, 3), np.uint8)
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def description(data: bytes) -> ElementTree.Element:
    """The XMP packet as any reader of the standard finds it: between its markers, somewhere in the file."""
    packet = re.search(rb"<\?xpacket begin.*?<\?xpacket end=\"r\"\?>", data, re.DOTALL)
    assert packet
    tree = ElementTree.fromstring(packet[0].decode("utf-8").partition("?>")[2].rpartition("<?")[0])
    found = tree.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert found is not None
    return found


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_a_png_holds_exactly_its_pixels(pixels):
    assert np.array_equal(decode_image(encode_image(pixels, Output(), FACTS), 1, "image").pixels, pixels)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(4))))
def test_a_png_holds_exactly_its_alpha(rgba):
    data = encode_image(rgba[..., :3], Output(), FACTS, alpha=rgba[..., 3])
    decoded = decode_image(data, 1, "image")
    assert np.array_equal(decoded.alpha, rgba[..., 3])
    assert np.array_equal(decoded.pixels, rgba[..., :3])


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_picture_is_the_same_bytes(kind):
    assert encode_image(PIXELS, Output(kind), FACTS) == encode_image(PIXELS.copy(), Output(kind), dict(FACTS))
    assert encode_image(PIXELS, Output(kind), FACTS) != encode_image(PIXELS, Output(kind), FACTS | {"seed": "8"})


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("source", "word"), [(GENERATED, "trained"), (EDITED, "compositeWithTrained")])
def test_every_format_says_that_a_machine_made_it_and_how(kind, source, word):
    found = description(encode_image(PIXELS, Output(kind), FACTS, digital_source=source))
    assert found.attrib[IPTC] == f"http://cv.iptc.org/newscodes/digitalsourcetype/{word}AlgorithmicMedia"
    assert {child.tag.removeprefix("{urn:medley:making:}"): child.text for child in found} == FACTS


@pytest.mark.parametrize("kind", FORMATS)
def test_pillow_finds_the_packet_too(kind):
    image = Image.open(io.BytesIO(encode_image(PIXELS, Output(kind), FACTS)))
    assert b"trainedAlgorithmicMedia" in (image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode())
    assert image.format == kind.upper()


def test_a_png_has_the_facts_as_text_chunks():
    text = Image.open(io.BytesIO(encode_image(PIXELS, Output(), FACTS))).text
    assert FACTS.items() <= text.items()


@pytest.mark.parametrize("kind", FORMATS)
def test_facts_of_any_text_are_kept_or_cut_never_broken(kind):
    facts = {"a": "<&>\"'", "b": "ünïcödé 日本 🙂", "c": "nul\0 and \x1b and \ud800", "d": "x" * 100_000, "e": ""}
    found = {child.tag[20:]: child.text or "" for child in description(encode_image(PIXELS, Output(kind), facts))}
    assert found["a"] == facts["a"]
    assert found["b"] == facts["b"]
    assert found["c"] == "nul and  and "
    assert found["d"] == "x" * 2000
    assert found["e"] == ""


@pytest.mark.parametrize("name", ["", "a b", "1", "<", "a:b", "é"])
def test_a_fact_needs_a_name_that_xml_allows(name):
    with pytest.raises(ValueError, match="cannot name"):
        encode_image(PIXELS, Output(), {name: "x"})


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_a_lower_compression_value_is_a_smaller_and_worse_file(kind):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    files = [encode_image(smooth, Output(kind, compression), {}) for compression in (0, 50, 100)]
    errors = [np.abs(decode_image(file, 1, "a").pixels.astype(int) - smooth).mean() for file in files]
    assert len(files[0]) < len(files[1]) < len(files[2])
    assert errors[0] > errors[2]


ALPHA = np.zeros((17, 23), np.uint8)


@pytest.mark.parametrize(
    ("output", "keeps"),
    [
        (Output("png"), True),
        (Output("webp"), True),
        (Output("png", background="transparent"), True),
        (Output("png", background="opaque"), False),
        (Output("webp", background="opaque"), False),
        (Output("jpeg"), False),
        (Output("jpeg", background="transparent"), False),
    ],
    ids=str,
)
def test_alpha_is_kept_where_it_can_and_may_else_the_picture_lies_on_white(output, keeps):
    decoded = decode_image(encode_image(PIXELS, output, {}, alpha=ALPHA), 1, "image")
    if keeps:
        assert (decoded.alpha == 0).all()
    else:
        assert decoded.alpha is None
        assert decoded.pixels.min() >= 250


def test_a_transparent_background_has_an_alpha_channel_even_where_nothing_is_transparent():
    decoded = decode_image(encode_image(PIXELS, Output(background="transparent"), {}), 1, "image")
    assert (decoded.alpha == 255).all()
