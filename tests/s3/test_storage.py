"""S3 as a storage, on a real server: every method of the interface, and every fault that a proxy can make."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from s3server import CANARY, USERS, free_port

from tunefleet.cluster.errors import OutputError, SettingsError, StorageError
from tunefleet.cluster.lease import Lease
from tunefleet.cluster.scratch import private_folder
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.storages import s3client
from tunefleet.cluster.storages.s3 import S3
from tunefleet.cluster.storages.s3client import Patience

pytestmark = pytest.mark.s3
PART_BYTES = 1 << 20
BIG = bytes(range(256)) * (2 * PART_BYTES // 256) + b"and a bit more"
QUICK = Patience(attempts=4, first_pause_s=0.01, longest_pause_s=0.02, connect_timeout_s=10.0, read_timeout_s=30.0)
IMPATIENT = replace(QUICK, attempts=8, connect_timeout_s=0.5, read_timeout_s=0.5)  # for what stalls; more attempts, since a busy machine stalls too


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def storage(s3_address):
    return replace(open_storage(s3_address), part_bytes=PART_BYTES, block_bytes=PART_BYTES)


@pytest.fixture
def faulty(s3_proxy, s3_address):
    """A storage of little patience behind the proxy."""
    plain = S3.at(s3_address)
    return S3(plain.bucket, plain.prefix, QUICK, PART_BYTES, PART_BYTES)


@pytest.fixture
def impatient(faulty):
    """The same, that soon gives up an attempt which stalls."""
    return replace(faulty, patience=IMPATIENT)


@pytest.mark.parametrize("data", [b"", b"hello", BIG], ids=["empty", "small", "parts"])
def test_what_is_put_is_read_back(storage, data):
    stored = storage.put("a/name", data)
    assert (stored.name, stored.bytes, stored.sha256) == ("a/name", len(data), hashlib.sha256(data).hexdigest())
    assert storage.read("a/name", sha256=stored.sha256, size=len(data)) == data
    assert storage.local("a/name", sha256=stored.sha256, size=len(data)).read_bytes() == data
    assert (storage.exists("a/name"), storage.size("a/name")) == (True, len(data))


def test_a_file_is_put_and_given_away(storage):
    path = storage.staging("x")
    path.write_bytes(BIG)
    assert storage.put_file("x", path) == storage.put("y", BIG).__class__("x", len(BIG), hashlib.sha256(BIG).hexdigest())
    assert path.exists()
    storage.put_file("x", path, consume=True)
    assert not path.exists()
    assert storage.read("x") == BIG


def test_ranges_are_read(storage):
    storage.put("x", b"0123456789")
    assert storage.read_from("x", 4) == b"456789"
    assert storage.read_from("x", 4, 3) == b"456"
    assert storage.read_from("x", 8, 30) == b"89"
    assert storage.read_from("x", 10) == storage.read_from("x", 99) == storage.read_from("x", 0, 0) == b""


def test_names_are_listed_and_removed(storage):
    for name in ("a/1", "a/2", "ab/3", "b"):
        storage.put(name, b"x")
    assert storage.list() == ["a/1", "a/2", "ab/3", "b"]
    assert storage.list("a/") == storage.list("a/")[:2] == ["a/1", "a/2"]
    assert storage.sub("a").list() == ["1", "2"]
    storage.delete_tree("a")
    storage.delete("b")
    storage.delete("b")
    assert storage.list() == ["ab/3"]


def test_a_name_is_created_once(storage):
    assert storage.create("x", b"first")
    assert not storage.create("x", b"second")
    assert storage.read("x") == b"first"
    storage.delete("x")
    assert storage.create("x", b"third")


def test_what_is_absent_or_altered_is_refused(storage):
    stored = storage.put("x", b"right")
    for wrong in (lambda: storage.read("none"), lambda: storage.local("none"), lambda: storage.size("none"), lambda: storage.modified("none")):
        with pytest.raises(StorageError, match="missing") as caught:
            wrong()
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    storage.put("x", b"wrong")
    for wrong in (lambda: storage.read("x", sha256=stored.sha256), lambda: storage.local("x", sha256=stored.sha256), lambda: storage.read("x", size=4)):
        with pytest.raises(StorageError, match="not what was written"):
            wrong()
    for name in ("../x", "/x", "a/../../x", "", ".tmp-1"):
        with pytest.raises(StorageError, match="leads out"):
            storage.put(name, b"")


def test_a_replaced_object_is_not_read_from_the_cache(storage):
    storage.put("x", b"old")
    assert storage.local("x").read_bytes() == b"old"
    storage.put("x", b"new")
    assert storage.local("x").read_bytes() == b"new"


def test_a_copy_that_went_bad_is_fetched_anew(storage):
    stored = storage.put("x", b"good")
    storage.local("x").write_bytes(b"evil")
    assert storage.local("x", sha256=stored.sha256).read_bytes() == b"good"


def test_the_age_is_that_of_the_server(storage):
    storage.put("x", b"")
    first = storage.modified("x")
    storage.put("y", b"")
    assert storage.modified("y") >= first
    assert isinstance(first, float)


def _child(storage, pipe):
    pipe.send((storage.read("x"), storage.create("child", b"c")))


def test_a_forked_child_and_a_pickled_copy_read_too(storage):
    storage.put("x", b"mine")
    assert pickle.loads(pickle.dumps(storage)).read("x") == b"mine"
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(storage, there))
    child.start()
    assert here.poll(60)
    assert here.recv() == (b"mine", True)
    child.join()
    assert storage.read("child") == b"c"


@pytest.mark.parametrize("address", ["s3://user:secret@bucket/x", "s3://bucket/x?X-Amz-Signature=secret", "https://host/x?token=secret"])
def test_an_address_with_a_secret_is_refused_without_saying_it(address):
    with pytest.raises(SettingsError, match="must hold no secret") as caught:
        open_storage(address)
    assert "secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)


# fault matrix, row 9
@pytest.mark.fault
@pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "parts"])
def test_bytes_that_change_on_their_way_up_are_sent_again(faulty, s3_proxy, data):
    rule = s3_proxy.fault("flip", times=2, method="PUT")
    stored = faulty.put("x", data)
    assert rule.hits == 2
    assert faulty.read("x", sha256=stored.sha256) == data


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["500", "503", "reset"])
@pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "parts"])
def test_a_burst_of_errors_is_outlasted(faulty, s3_proxy, kind, data):
    rule = s3_proxy.fault(kind, times=2)
    stored = faulty.put("x", data)
    assert rule.hits == 2
    again = s3_proxy.fault(kind, times=2)
    assert faulty.read("x", sha256=stored.sha256) == data
    assert again.hits == 2


@pytest.mark.fault
def test_errors_without_end_become_one_clear_error(faulty, s3_proxy):
    s3_proxy.fault("503")
    with pytest.raises(StorageError) as caught:
        faulty.put("a/name", b"x")
    text = str(caught.value)
    assert f"{faulty.address}/a/name" in text
    assert "503 SlowDown, after 4 attempts" in text
    assert text.count("\n") == 3
    assert s3_proxy.count() == 4


# rows 10 and 11
@pytest.mark.fault
@pytest.mark.parametrize("kind", ["stall", "short", "trickle"])
def test_a_body_that_does_not_come_whole_is_never_taken(impatient, s3_proxy, kind):
    data = b"0123456789" * 100
    stored = impatient.put("x", data)
    rule = s3_proxy.fault(kind, times=2, method="GET")
    assert impatient.read("x", sha256=stored.sha256) == data
    assert rule.hits == 2
    s3_proxy.fault(kind, method="GET")
    faulty = replace(impatient, patience=replace(IMPATIENT, attempts=2))
    with pytest.raises(StorageError, match="does not answer as it should"):
        faulty.local("x")
    assert not list(private_folder("objects").glob("*[!k]"))  # nothing but locks: half a copy is no copy


@pytest.mark.fault
def test_an_upload_that_stalls_is_sent_again(impatient, s3_proxy):
    rule = s3_proxy.fault("stall", times=1, method="PUT")
    stored = impatient.put("x", b"data")
    assert rule.hits == 1
    assert impatient.read("x", sha256=stored.sha256) == b"data"


@pytest.mark.fault
def test_an_answer_that_was_lost_does_not_make_a_winner_a_loser(faulty, s3_proxy):
    s3_proxy.fault("lost", times=1, method="PUT")
    assert faulty.create("x", b"mine")
    s3_proxy.fault("500", times=1, method="PUT")
    assert not faulty.create("x", b"theirs")
    s3_proxy.fault("lost", times=1, method="POST", query="uploadId")
    faulty.put("big", BIG)
    assert faulty.read("big") == BIG


# row 12
@pytest.mark.fault
def test_no_right_and_no_credentials_fail_at_once(faulty, s3_proxy, monkeypatch):
    s3_proxy.fault("403")
    with pytest.raises(StorageError, match="access denied") as caught:
        faulty.put("x", b"1")
    assert s3_proxy.count() == 2  # once more with credentials read anew, and no pause
    s3_proxy.clear()
    monkeypatch.setattr(s3client, "_clients", {})  # as in a process that has read no credentials yet
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY}-that-is-wrong")
    with pytest.raises(StorageError, match="access denied") as caught:
        faulty.put("x", b"1")
    assert f"{faulty.address}/x: access denied" in str(caught.value)
    assert "with the credentials of the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in caught.value.got
    said = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    assert not any(word in said for word in (CANARY, "test:tester"))


@pytest.mark.fault
def test_without_credentials_nothing_is_asked(faulty, s3_proxy, monkeypatch):
    monkeypatch.setattr(s3client, "_clients", {})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no credentials were found"):
        faulty.put("x", b"1")
    assert s3_proxy.count() == 0


def profile(user):
    """A credentials file for a user of the server."""
    return f"[default]\naws_access_key_id = {user}\naws_secret_access_key = {USERS[user]}\n"


# row 41
@pytest.mark.fault
def test_credentials_that_expire_are_read_anew_from_the_chain(faulty, s3_proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(s3client, "_clients", {})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    keys.write_text(profile("test:tester"))
    faulty.put("x", b"1")
    expired = s3_proxy.fault("expired", unless_key="test:second")
    keys.write_text(profile("test:second"))
    faulty.put("y", b"2")
    assert expired.hits == 1
    keys.write_text(profile("test:tester"))
    s3_proxy.fault("expired")
    with pytest.raises(StorageError, match="the credentials have expired") as caught:
        faulty.put("z", b"3")
    assert "--resume" in caught.value.fix
    assert "the file of shared credentials" in caught.value.got
    assert CANARY not in str(caught.value)


@pytest.mark.fault
def test_a_secret_in_the_servers_address_is_not_said(s3_address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:{CANARY}@127.0.0.1:{free_port()}")
    with pytest.raises(StorageError) as caught:
        replace(S3.at(s3_address), patience=replace(QUICK, attempts=2)).put("x", b"1")
    assert CANARY not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"


def test_a_bucket_that_is_not_there_is_named(s3_server):
    with pytest.raises(StorageError, match="s3://no-such-bucket/x/name: no such bucket"):
        open_storage("s3://no-such-bucket/x").put("name", b"1")


@pytest.mark.parametrize("round_", range(2))
def test_of_many_that_want_the_lease_one_gets_it(storage, round_):
    def acquire(number):
        try:
            return Lease.acquire(storage, "lease", f"run {number}")
        except OutputError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(acquire, range(8)))
    held = [one for one in found if isinstance(one, Lease)]
    assert len(held) == 1
    held[0].release()
    again = Lease.acquire(storage, "lease", "later")
    assert again.fence > held[0].fence
    again.release()
