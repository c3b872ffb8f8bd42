"""Storage over a folder: a name is whole or absent, and never outside."""

import errno
import os
import shutil
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster import storage as storage_module
from tunefleet.cluster.errors import SettingsError, StorageError
from tunefleet.cluster.storage import file_events, hash_file, open_storage
from tunefleet.cluster.storages.folder import Folder


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path / "output")


@pytest.fixture
def listening():
    """Installs a listener of file events for one test."""
    installed = []

    def listen(listener):
        file_events.append(listener)
        installed.append(listener)

    yield listen
    for listener in installed:
        file_events.remove(listener)


def test_what_is_put_is_read_back_and_can_be_checked(storage):
    stored = storage.put("a/b.bin", b"hello")
    assert (stored.name, stored.bytes) == ("a/b.bin", 5)
    assert storage.read("a/b.bin", sha256=stored.sha256, size=5) == b"hello"
    assert storage.local("a/b.bin", sha256=stored.sha256).read_bytes() == b"hello"
    assert storage.read_from("a/b.bin", 3) == b"lo"
    assert storage.size("a/b.bin") == 5


@pytest.mark.parametrize("altered", [b"hellO", b"hell", b""])
def test_an_altered_or_torn_file_is_refused(storage, altered):
    stored = storage.put("x", b"hello")
    (storage.root / "x").write_bytes(altered)
    with pytest.raises(StorageError, match="not what was written"):
        storage.read("x", sha256=stored.sha256, size=stored.bytes)
    with pytest.raises(StorageError, match="not what was written"):
        storage.local("x", sha256=stored.sha256, size=stored.bytes)


def test_a_missing_name_is_an_error_that_names_the_path(storage):
    for read in (storage.read, storage.local, storage.size, storage.modified):
        with pytest.raises(StorageError, match="output/none: missing"):
            read("none")
    assert not storage.exists("none")
    storage.delete("none")
    storage.delete_tree("none")


@pytest.mark.fault
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", ".", "a\0b", "link/x", "\\x", ".tmp-1"])
def test_no_name_leads_out(storage, tmp_path, name):
    storage.put("a/b", b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(b"kept")
    (storage.root / "link").symlink_to(tmp_path / "elsewhere")
    for act in (
        storage.read,
        storage.delete,
        storage.delete_tree,
        storage.sub,
        storage.exists,
        lambda n: storage.put(n, b""),
        lambda n: storage.append(n, b""),
    ):
        with pytest.raises(StorageError, match="leads out"):
            act(name)
    assert (tmp_path / "elsewhere" / "x").read_bytes() == b"kept"


@pytest.mark.fault
def test_a_file_that_is_a_link_out_is_refused(storage, tmp_path):
    (tmp_path / "secret").write_text("s")
    storage.put("a", b"")
    (storage.root / "b").symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError, match="leads out"):
        storage.read("b")


@given(st.text())
def test_any_name_stays_inside_or_is_refused(name):
    folder = Folder(storage_module.Path("/nowhere/at/all"))
    try:
        path = folder._path(name)
    except StorageError:
        return
    assert path.is_relative_to("/nowhere/at/all")
    assert path != storage_module.Path("/nowhere/at/all")


def test_the_list_is_sorted_recursive_by_prefix_and_without_temporary_files(storage):
    for name in ("b", "a/z", "a/y/x", "ab"):
        storage.put(name, b"")
    (storage.root / "a" / ".tmp-1-abc").write_bytes(b"left by a killed writer")
    assert storage.list() == ["a/y/x", "a/z", "ab", "b"]
    assert storage.list("a") == ["a/y/x", "a/z", "ab"]
    assert storage.list("a/") == ["a/y/x", "a/z"]
    assert storage.sub("a").list() == ["y/x", "z"]
    storage.delete_tree("a")
    assert storage.list() == ["ab", "b"]


def test_create_succeeds_once(storage):
    assert storage.create("x", b"first")
    assert not storage.create("x", b"second")
    assert storage.read("x") == b"first"
    assert [path.name for path in storage.root.iterdir()] == ["x"]


def test_append_adds_at_the_end(storage):
    storage.append("lines", b"a\n")
    storage.append("lines", b"b\n")
    assert storage.read("lines") == b"a\nb\n"


@pytest.mark.parametrize("consume", [False, True])
def test_a_local_file_is_put(storage, tmp_path, consume):
    local = tmp_path / "local"
    local.write_bytes(b"x" * 10)
    stored = storage.put_file("n/x", local, consume=consume)
    assert storage.read("n/x", sha256=stored.sha256, size=10) == b"x" * 10
    assert local.exists() is not consume


def test_a_staged_file_is_renamed_not_copied(storage):
    path = storage.staging("n/x")
    path.write_bytes(b"big")
    inode = path.stat().st_ino
    stored = storage.put_file("n/x", path, consume=True)
    assert (storage.root / "n" / "x").stat().st_ino == inode
    assert stored.sha256 == hash_file(storage.root / "n" / "x")[0]
    assert storage.list() == ["n/x"]


def _events_of(act):
    seen = []
    file_events.append(lambda event, _: seen.append(event))
    act()
    file_events.pop()
    return seen


def test_death_at_any_event_of_a_put_leaves_the_old_or_the_new_bytes(storage):
    storage.put("x", b"old")
    events = _events_of(lambda: storage.put("x", b"old"))
    assert events == ["create", "write", "sync", "rename", "sync-folder", "done"]
    for number in range(len(events)):
        storage.put("x", b"old")
        assert _exit_code_when_killed_at(number, lambda: storage.put("x", b"new")) == 9
        found = storage.read("x")
        assert found == (b"old" if events[number] in ("create", "write", "sync", "rename") else b"new")
        assert storage.list() == ["x"]


def test_death_at_any_event_of_a_create_leaves_it_whole_or_absent(storage):
    events = _events_of(lambda: storage.create("probe", b"new"))
    for number in range(len(events)):
        assert _exit_code_when_killed_at(number, lambda number=number: storage.create(f"x{number}", b"new")) == 9
        assert not storage.exists(f"x{number}") or storage.read(f"x{number}") == b"new"


def _exit_code_when_killed_at(number, act):
    """Run in a forked child that ends without any clean-up at its n-th file event."""
    pid = os.fork()
    if pid == 0:
        countdown = iter(range(number, -1, -1))
        file_events.append(lambda *_: os._exit(9) if next(countdown) == 0 else None)
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.fault
def test_a_full_disk_is_an_error_with_path_and_bytes_and_keeps_the_old_file(storage, listening):
    storage.put("x", b"old")

    def full(event, path):
        if event == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    listening(full)
    with pytest.raises(StorageError) as caught:
        storage.put("x", b"new!")
    assert "No space left on device" in str(caught.value)
    assert str(storage.root / "x") in str(caught.value)
    assert "4 bytes to write" in caught.value.got
    assert storage.read("x") == b"old"
    assert [path.name for path in storage.root.iterdir()] == ["x"]


@pytest.mark.fault
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_error(storage):
    storage.put("x", b"old")
    storage.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StorageError, match="Permission denied"):
        storage.put("x", b"new")
    storage.root.chmod(stat.S_IRWXU)


def test_a_file_where_a_folder_should_be_is_an_error(storage):
    storage.put("x", b"")
    with pytest.raises(StorageError):
        storage.put("x/y", b"")


def test_an_address_that_is_not_built_is_refused():
    with pytest.raises(SettingsError, match="no storage"):
        open_storage("gopher://somewhere")


def test_a_file_address_is_a_folder(tmp_path):
    assert open_storage(f"file://{tmp_path}").address == str(tmp_path.resolve())


def test_a_folder_reached_through_a_link_is_a_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    open_storage(tmp_path / "link").put("x", b"1")
    assert (tmp_path / "real" / "x").read_bytes() == b"1"
    shutil.rmtree(tmp_path / "real")
