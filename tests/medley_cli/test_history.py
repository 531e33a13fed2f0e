"""Which documents are kept, and which one is before another."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import yaml
from fake_serve import CHAT, DOCUMENT, EMBEDDINGS, entry, with_release

from medley.change import history
from medley.checks.config import ConfigError
from medley.local.cluster import ClusterError


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
    assert stat.S_IMODE((home / "history").stat().st_mode) == 0o700
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


def spoil_by_cutting(path):
    text = path.read_text()
    path.write_text(text[: text.index("all-minilm")])  # at the end of a line it would still be YAML


SPOILED = {
    "it is empty": lambda path: path.write_text(""),
    "it is cut": lambda path: path.write_text("# result: live, every application ready\n# time: 2026"),
    "by its checksum": spoil_by_cutting,
    "it is not text": lambda path: path.write_bytes(b"\xff" * 40),
    "it is no document for Serve": lambda path: path.write_text("- a\n"),
    "it cannot be read": lambda path: path.write_text("applications: [\n"),
    "other users may write to it": lambda path: path.chmod(0o666),
    "Is a directory": lambda path: (path.unlink(), path.mkdir()),
    "Too many levels of symbolic links": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
}


@pytest.mark.parametrize("reason", SPOILED)
def test_a_file_that_is_not_what_was_written_is_passed_over_and_named(reason):
    keep("1", "2", "3")
    spoiled = history.latest_good().path
    SPOILED[reason](spoiled)
    assert history.latest_good().document == with_release("2")
    (sentence,) = history.damaged()
    assert str(spoiled) in sentence
    assert reason in sentence
    (kept,) = keep("4")
    assert kept.number == 4
    assert history.before(4).number == 2


def test_a_file_of_another_user_is_passed_over(monkeypatch):
    keep("1")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert history.entries() == []
    assert "belongs to another user" in history.damaged()[0]


@pytest.mark.parametrize("name", ["0002-yesterday.yaml", "0002.yaml", "notes.yaml", "2x-20261121T072811Z.yaml"])
def test_a_file_by_another_name_breaks_nothing(home, name):
    keep("1")
    (home / "history" / name).write_text(yaml.safe_dump(DOCUMENT))
    assert history.latest_good().number == 1
    assert keep("2")[0].document == with_release("2")


def test_a_file_of_an_earlier_medley_can_be_gone_back_to(home):
    """It has no checksum and no cluster."""
    (home / "history").mkdir()
    old = home / "history" / "0007-20261121T072811Z.yaml"
    old.write_text("# result: live\n# by: somebody\n# note: start\n" + yaml.safe_dump(DOCUMENT))
    (entry,) = history.entries()
    assert (entry.number, entry.by, entry.cluster, entry.document) == (7, "somebody", "", DOCUMENT)


def test_a_clock_that_goes_backwards_does_not_change_the_order(monkeypatch):
    keep("1")

    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2001, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(history, "datetime", Earlier)
    keep("2")
    assert history.latest_good().document == with_release("2")
    assert history.before(2).document == with_release("1")


def test_two_writers_at_once_get_two_numbers():
    def write(name):
        for number in range(5):
            history.keep({"applications": [{"name": f"{name}{number}"}]}, "deploy")

    with ThreadPoolExecutor() as writers:
        list(writers.map(write, "ab"))
    assert [one.number for one in history.entries()] == list(range(1, 11))
    assert history.damaged() == []


def test_a_document_is_on_the_disk_before_it_has_its_name(home, monkeypatch):
    order = []
    sync, rename = os.fsync, type(home).rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("sync"), sync(fd)))
    monkeypatch.setattr(type(home), "rename", lambda one, to: (order.append("rename"), rename(one, to))[1])
    keep("1")
    assert order == ["sync", "rename", "sync"]


def test_what_did_not_go_live_leaves_nothing(home):
    with pytest.raises(KeyboardInterrupt), history.prepared(DOCUMENT, "deploy"):
        raise KeyboardInterrupt
    assert list((home / "history").iterdir()) == []


def test_a_name_that_cannot_be_given_is_said(monkeypatch):
    def no(*_):
        raise OSError(30, "Read-only file system")

    with history.prepared(DOCUMENT, "deploy") as pending:
        monkeypatch.setattr(os, "fsync", no)
        with pytest.raises(ClusterError, match=r"It is live, and .*history could not keep it: Read-only file system\."):
            pending.keep("one")


def test_what_serve_was_started_with_is_kept_however_many_deploys_follow():
    history.keep(with_release("first"), "start", started=True)
    keep(*map(str, range(history.KEPT + 2)))
    assert history.started_with().document == with_release("first")
    assert len(history.entries()) == history.KEPT + 1


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": "long"}', "{"])
def test_cold_starts_that_cannot_be_read_are_none(home, text):
    (home / "history").mkdir()
    (home / "history" / "cold_starts.json").write_text(text)
    assert history.cold_starts() == {}
