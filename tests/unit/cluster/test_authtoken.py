"""The token of a local Ray is for its user alone, whoever wrote it."""

import os
import stat
import threading

import pytest

from tunefleet.cluster.authtoken import guard_token


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)
    yield tmp_path / ".ray" / "auth_token"
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_that_nobody_else_may_read_and_stays(path):
    assert guard_token({}) == ()
    token = path.read_text()
    assert (mode(path), len(token)) == (0o600, 64)
    assert guard_token({"RAY_AUTH_MODE": "TOKEN"}) == ()
    assert path.read_text() == token
    assert [file.name for file in path.parent.iterdir()] == ["auth_token"]


def test_one_that_others_could_read_is_taken_from_them_and_that_is_said_once(path):
    path.parent.mkdir()
    path.write_text("of Ray")
    assert mode(path) == 0o644
    (said,) = guard_token({})
    assert str(path) in said
    assert "of Ray" not in said
    assert (mode(path), path.read_text()) == (0o600, "of Ray")
    assert guard_token({}) == ()


@pytest.mark.parametrize("environment", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "mine"}, {"RAY_AUTH_TOKEN_PATH": "/mine"}], ids=str)
def test_what_the_user_has_set_is_left_alone(path, environment):
    assert guard_token(environment) == ()
    assert not path.exists()


def test_many_that_make_it_at_once_find_one_token_whole(path):
    found, together = [], threading.Barrier(8)

    def make():
        together.wait()
        guard_token({})
        found.append(path.read_text())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(token) for token in found} == {64}
    assert len(set(found)) == 1


def test_a_home_that_takes_no_file_is_left_to_ray(path):
    path.parent.touch()
    assert guard_token({}) == ()
