"""An S3 bucket as a storage. An object appears whole with the request that ends its upload; a range is read of one version only.

Objects above ``PART_BYTES`` go up in parts, several at once. Whatever is large is cut into objects of at most 1 GB by those who write it.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.filecache import FileCache, key_of
from tunefleet.cluster.scratch import private_folder, staging
from tunefleet.cluster.storage import Stored, announce, check_content, chunks, hash_file, name_parts
from tunefleet.cluster.storages.s3client import Client, FailedError, Patience, client, explained

PART_BYTES = 32 << 20
"""Of an upload: each part costs the server an object of its own, and this machine as much memory for each that is on its way."""

BLOCK_BYTES = 16 << 20
"""Of a download."""
ABREAST = 4
"""Requests of one upload or download at a time."""

KEPT_BYTES = 64 << 30
"""Of local copies, at most, and of a quarter of the disk; what was asked for within the hour stays."""

PATIENCE = Patience()
_DELETE_KEYS = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class Head:
    """What the server says of an object: ``etag`` changes with its content, ``modified`` is in seconds by the server's clock."""

    size: int
    etag: str
    modified: float


@dataclass(frozen=True)
class S3:
    """The objects of a bucket below a prefix. It pickles: connections and credentials belong to the process that uses it."""

    bucket: str
    prefix: str = ""
    patience: Patience = PATIENCE
    part_bytes: int = PART_BYTES
    block_bytes: int = BLOCK_BYTES

    @classmethod
    def at(cls, address: str) -> S3:
        """The storage at ``s3://bucket/prefix``. Raises StorageError for an address without a bucket."""
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        if not bucket or ".." in prefix.split("/"):
            raise StorageError("this address names no bucket and prefix", got=address, want="s3://bucket/prefix", fix="check the address")
        return cls(bucket, "/".join(part for part in prefix.split("/") if part))

    @property
    def address(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def appends(self) -> bool:
        """An object never grows."""
        return False

    def put(self, name: str, data: bytes) -> Stored:
        """See Storage."""
        with ThreadPoolExecutor(1) as beside:
            digest = beside.submit(lambda: hashlib.sha256(data).hexdigest())
            if len(data) > self.part_bytes:
                self._put_parts(name, (data[start : start + self.part_bytes] for start in range(0, len(data), self.part_bytes)))
            else:
                self._put_whole(name, data)
            return Stored(name, len(data), digest.result())

    def put_file(self, name: str, local: Path, *, consume: bool = False) -> Stored:
        """See Storage."""
        try:
            digest, size = hash_file(local)
            if size > self.part_bytes:
                self._put_parts(name, chunks(local, self.part_bytes))
            else:
                self._put_whole(name, local.read_bytes())
        except OSError as error:
            fix = "see that it is not removed while it is uploaded"
            raise StorageError(f"{local}: {error.strerror or error}", got="a file that cannot be read", want="the file to upload", fix=fix) from error
        if consume:
            local.unlink()
        return Stored(name, size, digest)

    def staging(self, name: str) -> Path:
        """See Storage."""
        self._key(name)
        return staging()

    def read(self, name: str, *, sha256: str | None = None, size: int | None = None) -> bytes:
        """See Storage."""
        data = self._get(name, f"bytes=0-{self.block_bytes - 1}", self.block_bytes)
        if len(data) == self.block_bytes:
            head = self.head(name)
            data = b"".join(self._blocks(name, head)) if head.size > self.block_bytes else data
        check_content(self._path(name), len(data), lambda: hashlib.sha256(data).hexdigest(), sha256, size)
        return data

    def read_from(self, name: str, offset: int, length: int | None = None) -> bytes:
        """See Storage."""
        if length == 0:
            return b""
        return self._get(name, f"bytes={offset}-{'' if length is None else offset + length - 1}", length or self.block_bytes)

    def local(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """See Storage."""
        head = self.head(name)
        check_content(self._path(name), head.size, str, None, size)
        key = key_of(self._path(name), head.etag, head.size)
        return _objects().lend(key, self._path(name), lambda: self._blocks(name, head), size=head.size, sha256=sha256)

    def head(self, name: str) -> Head:
        """Size, version and age of an object."""
        answer = self._ask(name, "look at it", lambda s3: s3.head_object(Bucket=self.bucket, Key=self._key(name)))
        return Head(answer["ContentLength"], answer["ETag"], answer["LastModified"].timestamp())

    def exists(self, name: str) -> bool:
        """See Storage."""
        try:
            self.head(name)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def size(self, name: str) -> int:
        """See Storage."""
        return self.head(name).size

    def modified(self, name: str) -> float:
        """See Storage."""
        return self.head(name).modified

    def list(self, prefix: str = "") -> list[str]:
        """See Storage."""
        root = f"{self.prefix}/" if self.prefix else ""
        names: list[str] = []
        more: dict[str, str] = {}
        while True:
            arguments = {"Bucket": self.bucket, "Prefix": root + prefix, **more}
            page = self._ask(prefix, "list", partial(_list_page, arguments))
            names += [item["Key"][len(root) :] for item in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return sorted(name for name in names if name and not name.endswith("/"))
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, name: str) -> None:
        """See Storage."""
        announce("delete", self._path(name))
        with suppress(_MissingError):
            self._ask(name, "delete it", lambda s3: s3.delete_object(Bucket=self.bucket, Key=self._key(name)))

    def delete_tree(self, prefix: str) -> None:
        """See Storage."""
        announce("delete", self._path(prefix))
        names = self.list(f"{prefix.rstrip('/')}/")
        for start in range(0, len(names), _DELETE_KEYS):
            self._delete_many(prefix, names[start : start + _DELETE_KEYS])

    def create(self, name: str, data: bytes) -> bool:
        """See Storage. The server decides, by ``If-None-Match: *``."""
        try:
            self._put_whole(name, data, IfNoneMatch="*")
        except _ExistsError as lost:
            if lost.attempts == 1:
                return False
            try:  # an attempt before may have won, and its answer was lost
                return self.read(name) == data
            except _MissingError:
                return False
        return True

    def append(self, name: str, data: bytes) -> None:
        """See Storage."""
        raise StorageError(f"{self._path(name)}: an object cannot grow", got=f"{len(data)} bytes to add", want="a new object", fix="write numbered parts")

    def sub(self, prefix: str) -> S3:
        """See Storage."""
        return replace(self, prefix=self._key(prefix))

    def _key(self, name: str) -> str:
        return "/".join(([self.prefix] if self.prefix else []) + list(name_parts(name, self.address)))

    def _path(self, name: str) -> str:
        return f"{self.address}/{name}" if name else self.address

    def _ask(self, name: str, doing: str, ask: Callable[[Any], Awaitable[T]], *, size: int = 0) -> T:
        """One request. Raises StorageError, as one of the kinds below where callers tell them apart."""
        failed = None
        try:
            answer, _ = self._client().request(ask, size=size)
        except FailedError as error:
            failed = error
        if failed is None:
            return answer
        told = explained(self._path(name), failed, doing)  # raised out of the handler: what the library said may hold keys, and must not hang on it
        if failed.fate in _KINDS:
            kind = _KINDS[failed.fate](told.what, got=told.got, want=told.want, fix=told.fix)
            kind.__cause__, kind.attempts = told.__cause__, failed.attempts
            raise kind
        raise told

    def _client(self) -> Client:
        return client(self.patience)

    def _put_whole(self, name: str, data: bytes, **conditions: str) -> None:
        announce("upload", self._path(name))
        key = self._key(name)
        self._ask(name, "write it", lambda s3: s3.put_object(Bucket=self.bucket, Key=key, Body=data, **conditions), size=len(data))

    def _put_parts(self, name: str, parts: Iterator[bytes]) -> None:
        place = {"Bucket": self.bucket, "Key": self._key(name)}
        place["UploadId"] = self._ask(name, "begin its upload", lambda s3: s3.create_multipart_upload(**place))["UploadId"]

        def send(number: int, data: bytes) -> str:
            announce("upload", self._path(name))
            answer = self._ask(name, "write a part", lambda s3: s3.upload_part(**place, PartNumber=number, Body=data), size=len(data))
            return str(answer["ETag"])

        try:
            sent = list(_abreast(lambda pair: send(*pair), enumerate(parts, start=1)))
            announce("upload", self._path(name))
            self._complete(name, place, sent)
        except BaseException:
            with suppress(StorageError):
                self._ask(name, "give its upload up", lambda s3: s3.abort_multipart_upload(**place))
            raise

    def _complete(self, name: str, place: dict[str, str], sent: Sequence[str]) -> None:
        listed = {"Parts": [{"ETag": etag, "PartNumber": number} for number, etag in enumerate(sent, start=1)]}
        try:
            self._ask(name, "end its upload", lambda s3: s3.complete_multipart_upload(**place, MultipartUpload=listed))
        except _MissingError:  # the upload is gone: an attempt before has ended it, and its answer was lost, when the object is this one
            whole = hashlib.md5(b"".join(bytes.fromhex(etag.strip('"')) for etag in sent), usedforsecurity=False).hexdigest()
            if self.head(name).etag.strip('"') != f"{whole}-{len(sent)}":
                raise

    def _get(self, name: str, span: str, size: int, **conditions: str) -> bytes:
        async def ask(s3: Any) -> bytes:
            answer = await s3.get_object(Bucket=self.bucket, Key=self._key(name), Range=span, **conditions)
            async with asyncio.timeout(self.patience.limit_s(answer["ContentLength"])), answer["Body"] as body:
                data: bytes = await body.read()
            if len(data) != answer["ContentLength"]:
                raise ConnectionError("short body")
            return data

        try:
            return self._ask(name, "read it", ask, size=size)
        except _BeyondError:
            return b""

    def _blocks(self, name: str, head: Head) -> Iterator[bytes]:
        """The bytes of one version of an object, in order, several requests at once."""

        def get(start: int) -> bytes:
            end = min(start + self.block_bytes, head.size)
            try:
                data = self._get(name, f"bytes={start}-{end - 1}", end - start, IfMatch=head.etag)
            except _ExistsError:  # the condition does not hold
                raise StorageError(f"{self._path(name)}: replaced while it was read", got="another version", want=head.etag, fix="read it again") from None
            check_content(self._path(name), len(data), str, None, end - start)
            return data

        yield from _abreast(get, iter(range(0, head.size, self.block_bytes)))

    def _delete_many(self, prefix: str, names: Sequence[str]) -> None:
        wanted = {"Objects": [{"Key": self._key(name)} for name in names], "Quiet": True}
        answer = self._ask(prefix, "delete what is below it", lambda s3: s3.delete_objects(Bucket=self.bucket, Delete=wanted))
        for left in answer.get("Errors", ()):
            self.delete(left["Key"][len(f"{self.prefix}/") if self.prefix else 0 :])


def _objects() -> FileCache:
    """Copies of objects, known by their versions, so none ever goes stale."""
    folder = private_folder("objects")
    return FileCache(folder, min(KEPT_BYTES, shutil.disk_usage(folder).total // 4))


class _MissingError(StorageError):
    attempts = 1


class _ExistsError(StorageError):
    attempts = 1


class _BeyondError(StorageError):
    attempts = 1


_KINDS: dict[str, type[_MissingError | _ExistsError | _BeyondError]] = {"missing": _MissingError, "exists": _ExistsError, "beyond": _BeyondError}


def _list_page(arguments: dict[str, str], s3: Any) -> Awaitable[Any]:
    answer: Awaitable[Any] = s3.list_objects_v2(**arguments)
    return answer


def _abreast(function: Callable[[Any], T], items: Iterator[Any]) -> Iterator[T]:
    """The results in order, a few at a time under way: as much memory as those few need."""
    with ThreadPoolExecutor(ABREAST, thread_name_prefix="s3") as pool:
        waiting: list[Future[T]] = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ABREAST:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
