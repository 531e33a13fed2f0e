"""A secret is one for all processes, whole, and its owner's alone; a file that cannot be trusted is refused."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from models import secret_file
from models.secret_file import SHORTEST, SecretUnsafe, secret_of_file


def test_it_is_drawn_once_and_is_its_owners_alone(tmp_path):
    file = tmp_path / "new" / "secret"
    before = os.umask(0o277)
    try:
        secret = secret_of_file(file)
    finally:
        os.umask(before)
    assert len(secret) >= SHORTEST
    assert secret_of_file(file) == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["secret"]
    assert secret_of_file(tmp_path / "other") != secret


def test_first_uses_at_once_get_one_secret(tmp_path, monkeypatch):
    """All have seen that there is no file before the first has made it."""
    others = threading.Barrier(8)
    make = secret_file._make
    monkeypatch.setattr(secret_file, "_make", lambda file: (others.wait(30), make(file)))
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(secret_of_file, [tmp_path / "secret"] * 8))
    assert found == {(tmp_path / "secret").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_one_that_was_there_is_kept_without_the_end_of_its_line(tmp_path):
    file = tmp_path / "secret"
    file.write_text("s" * 64 + "\n")
    file.chmod(0o400)
    assert secret_of_file(file) == "s" * 64


def readable(file):
    file.write_text("s" * 64)
    file.chmod(0o644)


def of_the_group(file):
    file.write_text("s" * 64)
    file.chmod(0o620)


def linked(file):
    readable(file.with_name("other"))
    file.with_name("other").chmod(0o600)
    file.symlink_to("other")


def dangling(file):
    file.symlink_to("nothing")


def pipe(file):
    os.mkfifo(file, 0o600)


def written(content):
    def write(file):
        file.write_text(content)
        file.chmod(0o600)

    return write


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (readable, "mode 0644"),
        (of_the_group, "mode 0620"),
        (linked, "is a link"),
        (dangling, "is a link"),
        (pipe, "is no file"),
        (lambda file: file.mkdir(mode=0o700), "is no file"),
        (written(""), "is empty"),
        (written("\n"), "is empty"),
        (written("s" * (SHORTEST - 1)), "has 23 characters"),
        (written("s" * 5000), "has 4097 characters"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_with_the_remedy(tmp_path, left, why):
    file = tmp_path / "secret"
    left(file)
    with pytest.raises(SecretUnsafe, match=f"{why}.* Remove it"):
        secret_of_file(file)
    file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    assert len(secret_of_file(file)) >= SHORTEST


def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    secret_of_file(tmp_path / "secret")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SecretUnsafe, match="belongs to another user"):
        secret_of_file(tmp_path / "secret")


def test_a_folder_where_everybody_may_replace_it_is_refused(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SecretUnsafe, match=r"mode 0777.*chmod o-w"):
        secret_of_file(folder / "secret")
    folder.chmod(0o1777)
    assert secret_of_file(folder / "secret")
