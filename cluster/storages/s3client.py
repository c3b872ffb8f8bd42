"""One request to S3 at a time: the session of s3fs, bounded in time, tried again with growing pauses where that can help, and explained where it cannot.

Credentials come from the environment's chain alone (variables, profile, role of the machine), the endpoint from ``AWS_ENDPOINT_URL`` or
``AWS_ENDPOINT_URL_S3``. Nothing that a server or library says is passed on but its error codes: messages may quote addresses and keys.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tunefleet.cluster.errors import StorageError

T = TypeVar("T")
Fate = Literal["again", "expired", "denied", "anonymous", "missing", "no bucket", "exists", "beyond", "wrong"]
"""What an error of one attempt means. ``exists``: a conditional create lost. ``beyond``: a range that begins after the end."""

_CONFIG = {
    "retries": {"total_max_attempts": 1, "mode": "standard"},  # trying again is decided here, once, and not on three floors
    "request_checksum_calculation": "when_required",  # servers that are not Amazon's know no newer ones; an upload is signed with its SHA-256, which they check
    "response_checksum_validation": "when_required",
    "max_pool_connections": 32,
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "CredentialsExpired"}
_AGAIN = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests"}
_AGAIN |= {"ConditionalRequestConflict", "OperationAborted", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "RequestTimeTooSkewed"}
_ANONYMOUS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError", "TokenRetrievalError", "ProfileNotFound"}
_ENDPOINT = {"InvalidEndpoint", "InvalidEndpointConfigurationError", "InvalidConfigError", "InvalidRegionError", "ParamValidationError"}
_CHAIN = {
    "env": "the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "shared-credentials-file": "the file of shared credentials",
    "config-file": "the AWS config file",
    "iam-role": "the machine's role",
    "container-role": "the container's role",
    "assume-role": "the profile's assumed role",
    "assume-role-with-web-identity": "the web identity's role",
    "sso": "the profile's single sign-on",
    "custom-process": "the profile's credential_process",
}
"""Where credentials come from, by botocore's names."""
_UNREACHED_ATTEMPTS = 4  # of a server that never answered: more likely its address is wrong


@dataclass(frozen=True)
class Patience:
    """How long to go on. Pauses double from the first to the longest, each drawn from its upper half, so that many workers do not come back at once."""

    attempts: int = 10
    first_pause_s: float = 0.2
    longest_pause_s: float = 20.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    slowest_bytes_per_s: float = 128 << 10
    """A request that is slower than this in all counts as stalled: a trickle of bytes never runs into the read timeout."""

    def pause_s(self, attempt: int, chance: float) -> float:
        """Seconds to wait after the attempt, counted from 1; ``chance`` in [0, 1)."""
        longest = min(self.longest_pause_s, float(self.first_pause_s * 2 ** (attempt - 1)))
        return longest * (0.5 + chance / 2)

    def limit_s(self, size: int) -> float:
        """Seconds that a request of so many bytes may take in all."""
        return self.connect_timeout_s + self.read_timeout_s + size / self.slowest_bytes_per_s


class FailedError(Exception):
    """An attempt's outcome that the caller may want to look at: ``fate`` and the cause in a few words. ``attempts`` were made in all."""

    def __init__(self, fate: Fate, cause: str, attempts: int, whose: str = "") -> None:
        """``whose``: where the credentials came from, when they are what is wrong."""
        super().__init__(cause)
        self.fate, self.cause, self.attempts, self.whose = fate, cause, attempts, whose


class Client:
    """Requests to S3 from any thread of this process. ``reached``: a server has answered before."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.reached = False
        self._lock = threading.Lock()
        self._system: Any = None
        self._generation = 0

    def request(self, ask: Callable[[Any], Awaitable[T]], *, size: int = 0) -> tuple[T, int]:
        """The answer to ``ask(client of aiobotocore)``, and how many attempts it took. ``size``: bytes that are moved. Raises FailedError."""
        attempt, expired = 0, False
        while True:
            attempt += 1
            generation = self._generation
            fate, cause, answer = self._attempt(ask, size)
            if fate is None:
                self.reached = True
                return answer, attempt
            last = attempt >= (self.patience.attempts if self.reached or fate != "again" or cause not in _UNREACHED else _UNREACHED_ATTEMPTS)
            if fate == "denied" and not expired:  # once: keys that were changed under us are read anew
                expired = True
                self._renew(generation)
            elif fate == "expired" and not last:
                self._renew(generation)
                time.sleep(self.patience.pause_s(attempt, random.random()))  # noqa: S311 - no secret is made of it
            elif fate == "again" and not last:
                time.sleep(self.patience.pause_s(attempt, random.random()))  # noqa: S311
            else:
                raise FailedError(fate, cause, attempt, self._whose() if fate in ("denied", "expired") else "")

    def _attempt(self, ask: Callable[[Any], Awaitable[T]], size: int) -> tuple[Fate | None, str, Any]:
        from fsspec.asyn import sync

        limit_s = self.patience.limit_s(size)

        async def once() -> T:
            system = self._session()
            async with asyncio.timeout(limit_s):
                return await ask(await system.set_session())

        try:
            return None, "", sync(self._session().loop, once)
        except StorageError:  # ours, before anything was asked: a name that leads out
            raise
        except Exception as error:  # noqa: BLE001 - every kind of it is told apart here
            return fate_of(error), cause_of(error, limit_s), None

    def _session(self) -> Any:
        """The file system of s3fs that holds session and connections: no listing is cached, and nothing is shared with others of this process."""
        with self._lock:
            if self._system is None:
                import s3fs

                timeouts = {"connect_timeout": self.patience.connect_timeout_s, "read_timeout": self.patience.read_timeout_s}
                self._system = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs={**_CONFIG, **timeouts})
            return self._system

    def _whose(self) -> str:
        """Where the chain found the credentials, in words: a variable, a file, a role; never what they are."""
        from fsspec.asyn import sync

        async def method() -> str:
            system = self._session()
            await system.set_session()
            found = await system.session.get_credentials()
            return str(found.method) if found is not None else "none"

        try:
            name: str = sync(self._session().loop, method)
        except Exception:  # noqa: BLE001 - it only adds to another error
            return "an unknown place"
        return _CHAIN.get(name, name)

    def _renew(self, generation: int) -> None:
        """Ask the chain for credentials anew, unless another thread has done so since."""
        with self._lock:
            if self._generation == generation:
                self._generation += 1
                self._system = None


_clients: dict[tuple[int, Patience, str], Client] = {}


def client(patience: Patience) -> Client:
    """The client of this process. A forked child has none of its parent's connections, and another endpoint has a client of its own."""
    place = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return _clients.setdefault((os.getpid(), patience, place), Client(patience))


def fate_of(error: BaseException) -> Fate:
    """What to do about an error of botocore, aiohttp or the network."""
    name, code, status = type(error).__name__, *_answer(error)
    if not code and not status:
        if name in _ANONYMOUS:
            return "anonymous"
        return "wrong" if name in _ENDPOINT or (isinstance(error, TypeError | ValueError | AttributeError) and name != "ResponseParserError") else "again"
    if code in _EXPIRED:
        return "expired"
    if code in _AGAIN or status >= 500 or status == 429:
        return "again"
    if code == "NoSuchBucket":
        return "no bucket"
    if status in (401, 403):
        return "denied"
    return {404: "missing", 412: "exists", 416: "beyond"}.get(status, "wrong")  # type: ignore[return-value]


def cause_of(error: BaseException, limit_s: float) -> str:
    """An error in words that hold no secret: its code and status, or its kind."""
    code, status = _answer(error)
    if code or status:
        return " ".join(word for word in (str(status or ""), code) if word)
    if isinstance(error, TimeoutError):
        return f"no whole answer in {limit_s:.0f} s"
    return type(error).__name__


_UNREACHED = {"EndpointConnectionError", "ConnectTimeoutError"}


def _answer(error: BaseException) -> tuple[str, int]:
    """Code and HTTP status of what a server said; nothing where none did."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return "", 0
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    return ("" if code == str(status) else code[:60]), status


def explained(path: str, failed: FailedError, doing: str) -> StorageError:
    """The final error of a request, in four lines. Its cause is an OSError of the fitting kind, so that callers tell a missing name from an ill storage."""
    tried = f"{failed.cause}, after {failed.attempts} attempt{'s' if failed.attempts > 1 else ''} to {doing}"
    tried += f" with the credentials of {failed.whose}" if failed.whose else ""
    want, fix, kind = {
        "missing": ("an object that is there", "check the path", errno.ENOENT),
        "no bucket": ("a bucket that is there", "check its name, or create it", errno.ENODEV),
        "denied": (
            "credentials that may do this",
            "check which credentials this machine has, and what they may do",
            errno.EACCES,
        ),
        "expired": ("credentials that are valid", "renew them (the profile, the variables, the role) and go on with --resume", errno.EACCES),
        "anonymous": ("credentials", "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role", errno.EACCES),
        "again": ("an answer", "look at the server and the network, then go on with --resume", errno.EIO),
        "wrong": ("a request that the server takes", "check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the address", errno.EINVAL),
        "exists": ("a name that is free", "use another name", errno.EEXIST),
        "beyond": ("a range inside the object", "read it again", errno.EINVAL),
    }[failed.fate]
    what = {"missing": "missing", "no bucket": "no such bucket", "denied": "access denied", "expired": "the credentials have expired"}
    what |= {"anonymous": "no credentials were found", "again": "S3 does not answer as it should", "wrong": "S3 refuses the request"}
    error = StorageError(f"{path}: {what.get(failed.fate, failed.fate)}", got=tried, want=want, fix=fix)
    error.__cause__ = FileNotFoundError(kind, failed.cause) if failed.fate == "missing" else OSError(kind, failed.cause)
    return error
