"""The secret behind DNS cookies: one for all workers, kept, changed in time."""

import os
import stat

import pytest

from urlguard.worker.cookie_secret import CHANGE_S, OCTETS, cookie_secrets


def test_all_workers_have_the_same_secret(tmp_path):
    """
    Also after a restart; nobody else can read it.
    """
    first = cookie_secrets(tmp_path)
    assert (len(first[0]), first[1]) == (OCTETS, None)
    assert cookie_secrets(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["cookie.secret"]
    assert stat.S_IMODE((tmp_path / "cookie.secret").stat().st_mode) == 0o600
    assert cookie_secrets(tmp_path.joinpath("none")) != first


def test_it_is_changed_now_and_then_and_the_one_before_still_holds(tmp_path):
    """
    A cookie from before the change is good until the next one.
    """
    first, _ = cookie_secrets(tmp_path)
    made = (tmp_path / "cookie.secret").stat().st_mtime
    assert cookie_secrets(tmp_path, made + CHANGE_S - 1) == (first, None)
    second, before = cookie_secrets(tmp_path, made + CHANGE_S + 1)
    assert before == first
    assert second != first
    assert cookie_secrets(tmp_path, made + 2) == (second, first)
    os.utime(tmp_path / "cookie.secret", (made, made))
    assert cookie_secrets(tmp_path, made + CHANGE_S + 1)[1] == second


@pytest.mark.parametrize("content", [b"", b"short", bytes(17), bytes(100)])
def test_a_broken_file_is_made_anew(tmp_path, content):
    """
    A secret of the wrong length is none.
    """
    (tmp_path / "cookie.secret").write_bytes(content)
    first = cookie_secrets(tmp_path)
    assert (len(first[0]), first[1]) == (OCTETS, None)
    assert cookie_secrets(tmp_path) == first


def test_without_a_folder_to_write_to_each_worker_has_its_own(tmp_path):
    """
    Clients then get new cookies from each; nothing fails.
    """
    nowhere = tmp_path / "missing"
    one, two = cookie_secrets(nowhere), cookie_secrets(nowhere)
    assert len(one[0]) == OCTETS
    assert one != two
