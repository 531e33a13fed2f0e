"""Which documents are kept, and which one is before another."""

import stat

import pytest
import yaml
from fake_serve import CHAT, DOCUMENT, EMBEDDINGS, entry, with_release

from medley.change import history
from medley.checks.config import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path))
    return tmp_path


def keep(*releases):
    return [history.keep(with_release(release), f"deploy of {release}.yaml") for release in releases]


def test_without_a_history_there_is_nothing_to_go_back_to():
    assert history.latest_good() is None
    assert history.before(1) is None
    assert history.started_with() is None


def test_documents_are_numbered_and_the_last_one_is_the_latest():
    keep("1", "2", "3")
    assert [one.number for one in history.entries()] == [1, 2, 3]
    assert history.latest_good().document == with_release("3")
    assert history.before(3).document == with_release("2")
    assert history.before(1) is None
    assert history.numbered(2).document == with_release("2")
    assert history.numbered(9) is None


def test_a_kept_file_says_what_it_is_and_can_be_deployed_as_it_is(home):
    (kept,) = keep("1")
    text = kept.path.read_text()
    assert kept.path.parent == home / "history"
    assert text.startswith("# result: live, every application ready\n# time: ")
    assert "# note: deploy of 1.yaml\n" in text
    assert yaml.safe_load(text) == with_release("1")
    assert kept.by == text.split("# by: ")[1].split("\n")[0] != ""


def test_only_its_owner_may_read_a_document_because_it_may_hold_secrets():
    (kept,) = keep("1")
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600


def test_the_same_document_again_is_not_kept_twice():
    keep("1", "1", "2", "2", "1")
    assert [one.document["applications"][0]["args"]["release"] for one in history.entries()] == ["1", "2", "1"]


def test_fifty_are_kept_and_numbers_go_on():
    keep(*map(str, range(53)))
    assert [one.number for one in history.entries()] == list(range(4, 54))
    assert history.latest_good().document == with_release("52")


def test_numbers_above_9999_are_still_in_order():
    (kept,) = keep("1")
    kept.path.rename(kept.path.with_name(kept.path.name.replace("0001", "9999")))
    keep("2", "3")
    assert [one.number for one in history.entries()] == [9999, 10000, 10001]


def test_a_note_of_several_lines_stays_one_comment():
    kept = history.keep(DOCUMENT, "first\napplications: []")
    assert kept.note == "first applications: []"
    assert kept.document == DOCUMENT


def test_the_document_that_started_serve_is_known_after_later_deploys():
    history.keep(with_release("1"), "start", started=True)
    keep("2", "3")
    assert history.started_with().number == 1
    history.keep(with_release("3"), "start", started=True)
    assert history.started_with().number == 4


def test_cold_starts_are_kept_by_application():
    assert history.cold_starts() == {}
    history.keep_cold_starts({"a": 1.04, "b": 2})
    history.keep_cold_starts({"b": 3})
    history.keep_cold_starts({})
    assert history.cold_starts() == {"a": 1.0, "b": 3}
    assert history.entries() == []


def test_a_kept_document_names_its_models():
    (kept,) = keep("1")
    config = history.config_of(kept)
    assert [(model.app, model.variant_name) for model in config.models] == [(CHAT, "vllm-cpu"), (EMBEDDINGS, "onnx")]
    assert config.document == with_release("1")


@pytest.mark.parametrize("args", [{"model": "no-such-model"}, {"model": CHAT, "variant": "no-such-variant"}])
def test_a_kept_document_whose_model_is_gone_is_refused_with_its_number(args):
    document = with_release("1")
    entry(document, CHAT)["args"] = args
    with pytest.raises(ConfigError, match=r"document 1 of .* asks for what is no longer there: [^\n]*no-such[^\n]*$"):
        history.config_of(history.keep(document, "old"))
