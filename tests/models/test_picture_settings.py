"""What settings of a row say about what is asked for: the nearest size, the nearest style."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.errors import InvalidRequest
from models.tasks.images import ImageSettings
from models.tasks.styles import StyleSettings

MADE = {"width": 64, "height": 64, "steps": 4, "guidance": 4, "scheduler": "fake"}
SMALL = ImageSettings(smallest=32, largest=128, multiple=8, most_megapixels=0.02, **MADE)
STYLES = StyleSettings(styles=("charcoal", "starry-swirls", "woven-grid", "yellow-ink"))


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ((64, 64), (64, 64)),
        ((128, 152), (104, 128)),
        ((1024, 512), (128, 64)),
        ((128, 128), (128, 128)),
        ((70, 50), (72, 48)),
        ((8, 8), (32, 32)),
        ((20, 10), (64, 32)),
        ((1000, 10), (128, 32)),
    ],
)
def test_the_nearest_size_has_the_shape_of_the_one_asked_for(asked, nearest):
    assert SMALL.nearest(*asked) == nearest


def test_a_narrow_picture_is_shortened_to_the_megapixels():
    assert SMALL.model_copy(update={"largest": 1000}).nearest(4000, 40) == (624, 32)


@st.composite
def limits(draw):
    """Settings of a model that can make at least its smallest square."""
    multiple = draw(st.sampled_from([1, 8, 16, 64]))
    smallest = draw(st.integers(1, 600))
    side = -(-smallest // multiple) * multiple
    largest = draw(st.integers(side, 20 * side))
    megapixels = draw(st.integers(side * side, side * largest)) / 1e6
    assume(side * side <= megapixels * 1e6)  # which rounding may prevent
    return ImageSettings(smallest=smallest, largest=largest, multiple=multiple, most_megapixels=megapixels, **MADE)


@given(limits(), st.integers(1, 999_999), st.integers(1, 999_999))
def test_the_nearest_size_can_be_made_and_is_its_own_nearest(settings, width, height):
    near = settings.nearest(width, height)
    assert all(side % settings.multiple == 0 for side in near)
    assert all(settings.smallest <= side <= settings.largest for side in near)
    assert near[0] * near[1] <= settings.most_megapixels * 1e6
    assert settings.nearest(*near) == near
    assert (near[0] >= near[1]) == (width >= height) or abs(near[0] - near[1]) <= settings.multiple


def test_a_style_of_the_model_is_found():
    assert STYLES.style_named("yellow-ink") == "yellow-ink"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("charcol", "Did you mean charcoal?"),
        ("Starry", "Did you mean starry-swirls?"),
        ("ink", "Did you mean yellow-ink"),
        ("xyz", "It has charcoal, starry-swirls, woven-grid, yellow-ink."),
        ("", "It has charcoal"),
        ("x" * 5000, "It has charcoal"),
    ],
)
def test_an_unknown_style_is_answered_with_those_there_are(asked, told):
    with pytest.raises(InvalidRequest) as caught:
        STYLES.style_named(asked)
    assert told in caught.value.message
    assert caught.value.param == "style"
    assert len(caught.value.message) < 1000
