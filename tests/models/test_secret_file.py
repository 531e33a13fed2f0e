"""Secrets in files of their own: made once, never shared with other users, never mended silently."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.secret_file import SHORTEST, SecretUnsafe, secret_of_file


def test_it_is_made_once_and_for_its_owner_alone(tmp_path):
    file = tmp_path / "new" / "folder" / "secret"
    secret = secret_of_file(file)
    assert len(secret) == 64
    assert secret_of_file(file) == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["secret"]


def test_first_uses_at_once_agree(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: secret_of_file(tmp_path / "secret"), range(64)))) == 1
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        secret_of_file(tmp_path / "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["a" * SHORTEST, "a" * SHORTEST + "\n"])
def test_a_secret_of_ones_own_is_taken(tmp_path, text):
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(0o600)
    assert secret_of_file(file) == text.strip()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"", 0o600, "empty"),
        (b" \n\n", 0o600, "empty"),
        (b"a" * (SHORTEST - 1), 0o600, "31 characters"),
        (b"\xff" * 40, 0o600, "not text"),
        (b"\0" * 40, 0o600, "something else"),
        (b"two words " * 9, 0o600, "something else"),
        (b"a" * 5000, 0o600, "something else"),
        (b"a" * 64, 0o640, "mode 0640"),
        (b"a" * 64, 0o604, "mode 0604"),
        (b"a" * 64, 0o602, "mode 0602"),
        (b"a" * 64, 0o610, "mode 0610"),
    ],
)
def test_what_is_unsafe_is_refused_and_left_as_it_is(tmp_path, content, mode, words):
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(SecretUnsafe, match=words) as caught:
        secret_of_file(file)
    assert "Remove it" in str(caught.value)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/etc/hostname", path)])
def test_what_is_no_plain_file_is_refused(tmp_path, make):
    make(tmp_path / "secret")
    with pytest.raises(SecretUnsafe, match="Remove it"):
        secret_of_file(tmp_path / "secret")


def test_a_link_to_nowhere_is_not_followed(tmp_path):
    (tmp_path / "secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SecretUnsafe, match="is a link"):
        secret_of_file(tmp_path / "secret")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretUnsafe, match="can be neither read nor made"):
        secret_of_file(tmp_path / "file" / "secret")


def test_a_file_that_every_user_can_replace_is_refused(tmp_path):
    secret_of_file(tmp_path / "token")
    tmp_path.chmod(0o777)
    with pytest.raises(SecretUnsafe, match="chmod o-w"):
        secret_of_file(tmp_path / "token")
    tmp_path.chmod(0o1777)
    assert secret_of_file(tmp_path / "token")
