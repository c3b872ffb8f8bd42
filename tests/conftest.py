"""Fixtures for every folder of tests: the S3 server, and the fault proxy before it. Both start when a test first asks for them."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest
import s3proxy
import s3server
from hypothesis import settings

from tunefleet.cluster.session import set_environment

set_environment(local=True)  # Ray reads it when it is imported, which test modules of any folder may do
settings.register_profile("tunefleet", deadline=None)  # no test asserts seconds
settings.load_profile("tunefleet")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that starts the tests in the background says so, and every driver would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_bucket(name: str) -> None:
    """Create a bucket with the plain client."""
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False).mkdir(name)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3server.Server]:
    """A real S3 server for the whole session, and the environment that makes every client of this process and its children use it."""
    server = s3server.start(tmp_path_factory.mktemp("swift"))
    before = dict(os.environ)
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(server.variables())
    make_bucket(s3server.BUCKET)
    yield server
    os.environ.clear()
    os.environ.update(before)
    server.stop()


@pytest.fixture
def s3_address(s3_server: s3server.Server) -> str:
    """A fresh prefix in a bucket of the server: ``s3://bucket/name``."""
    return f"s3://{s3server.BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def s3_proxy(s3_server: s3server.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3proxy.Proxy]:
    """A fault proxy before the server, which everything in this process uses until the test ends."""
    proxy = s3proxy.start("127.0.0.1", s3_server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.stop()
