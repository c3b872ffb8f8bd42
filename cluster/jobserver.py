"""A cluster's job server, spoken to over HTTP: reachable, of a version that fits, and authenticated by the cluster's token, each with a plain word when not.

The token comes from where Ray looks for it: RAY_AUTH_TOKEN, a file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token. It is sent only to a server that
asks for one, and never follows a redirection. Further headers, for a proxy in between, come from RAY_JOB_HEADERS (JSON), as for Ray's own tools.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from tunefleet.cluster.errors import PreflightError, SettingsError, StorageError
from tunefleet.cluster.masking import masked
from tunefleet.cluster.preflight import STACK, supported

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 30.0
PORT = 8265
_GCS_PORT = 6379
_WANT_TOKEN = "the token of that cluster, in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"  # noqa: S105 - no secret
_FIX_TOKEN = "`ray get-auth-token` on the head prints it; then RAY_AUTH_TOKEN_PATH=FILE tunefleet ..."  # noqa: S105


class OutOfReachError(PreflightError):
    """Nothing answers, now: the server may be away for a moment."""


@dataclass(frozen=True)
class JobServer:
    """A server that answered. ``guarded``: it asks for a token. ``headers`` hold secrets, and are never shown."""

    url: str
    guarded: bool
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"JobServer({self.url!r}, guarded={self.guarded})"

    def get(self, path: str, **query: str) -> Any:
        """The JSON that stands at a path."""
        return _checked(self.url, path, _send("GET", self.url, path, self.headers, params=query)).json()

    def post(self, path: str, value: Any = None) -> Any:
        """Send JSON, and return the JSON that comes back. Raises SettingsError with the server's own first line when it refuses."""
        return _checked(self.url, path, _send("POST", self.url, path, self.headers, json=value)).json()

    def upload(self, name: str, data: bytes) -> str:
        """Put an archive into the cluster, unless it is there; the address that a runtime environment names it by."""
        path = f"/api/packages/gcs/{quote(name)}"
        if _send("GET", self.url, path, self.headers).status_code != 200:
            _checked(self.url, path, _send("PUT", self.url, path, self.headers, data=data))
        return f"gcs://{name}"

    def remarks(self) -> list[str]:
        """What somebody who trusts this server should know."""
        said = [] if self.guarded else [f"{self.url} asks for no token: whoever reaches it can run code there (see cluster/SECURITY.md)"]
        if self.guarded and self.url.startswith("http://") and not is_loopback(self.url):
            said.append(f"the token travels to {self.url} unencrypted: use https, or a tunnel to the head's loopback")
        return said


def job_server(address: str, environment: Mapping[str, str] = os.environ) -> JobServer:
    """The job server at an address (``http://head:8265``, or ``head:8265``).

    Raises PreflightError: nothing answers there, it is no job server, its Ray does not fit, or the token is missing or wrong.
    """
    url = server_url(address)
    plain = further_headers(environment)
    answer = _send("GET", url, "/api/version", plain)
    if answer.status_code == 401 or (answer.status_code == 403 and "token" in answer.text):
        place, token = find_token(environment)
        if not token:
            raise PreflightError("the cluster's token is missing", got=f"{url} asks for one; {place}", want=_WANT_TOKEN, fix=_FIX_TOKEN)
        headers = {**plain, "Authorization": f"Bearer {token}"}
        answer = _send("GET", url, "/api/version", headers)
        if answer.status_code in (401, 403):
            raise PreflightError("the cluster refuses the token", got=f"{url}, with the token of {place}", want=_WANT_TOKEN, fix=_FIX_TOKEN)
        _check_version(url, answer)
        return JobServer(url, True, headers)
    _check_version(url, answer)
    return JobServer(url, False, plain)


def server_url(address: str) -> str:
    """The address as a URL. Raises SettingsError for one that is none, or that holds a secret or the port of the cluster's own protocol."""
    text = address if "://" in address else f"http://{address}"
    parts = urlsplit(text)
    want = f"http://HEAD:{PORT}, the address of the cluster's dashboard; through a tunnel http://127.0.0.1:{PORT}"
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.username or parts.password or parts.query:
        raise SettingsError("--address: holds a secret", got=masked(text), want=want, fix="the token comes from the environment, headers from RAY_JOB_HEADERS")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise SettingsError("--address: no address of a job server", got=address, want=want, fix="see `ray dashboard`, or kubectl port-forward")
    if port == _GCS_PORT:
        raise SettingsError("--address: this is the port that nodes and drivers join by", got=address, want=want, fix=f"name port {PORT}, not {_GCS_PORT}")
    port = port or (443 if parts.scheme == "https" else PORT)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether a URL names this very machine, or the near end of a tunnel."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_token(environment: Mapping[str, str]) -> tuple[str, str]:
    """Where the token was found, or what was looked at in vain; and the token, empty where there is none."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return "RAY_AUTH_TOKEN", token
    named = environment.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named or "~/.ray/auth_token").expanduser()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return f"RAY_AUTH_TOKEN is not set, and {path} cannot be read ({type(error).__name__})", ""
    return (str(path), token) if token else (f"{path} is empty", "")


def further_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """RAY_JOB_HEADERS. Raises SettingsError, without showing it, when it is no JSON object of texts."""
    text = environment.get("RAY_JOB_HEADERS", "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise SettingsError("RAY_JOB_HEADERS: cannot be read", got="something else", want='one JSON object of texts: {"Name": "value"}', fix="mend or unset it")
    return found


def _check_version(url: str, answer: requests.Response) -> None:
    want = f"a head with Ray's dashboard and job server: http://HEAD:{PORT}"
    if 300 <= answer.status_code < 400:
        target = masked(answer.headers.get("Location", "elsewhere"))
        raise PreflightError(
            "the address leads elsewhere", got=f"{url} -> {target}", want="the server itself, since a token follows no redirection", fix="name it"
        )
    try:
        version = str(answer.json()["ray_version"])
    except (ValueError, KeyError, TypeError) as error:
        fix = "check host and port; the head needs `pip install 'ray[default]'` (tunefleet[cluster])"
        raise PreflightError("what answers there is no job server", got=f"{url}: HTTP {answer.status_code}", want=want, fix=fix) from error
    least, below = STACK["ray"]
    if not supported(version, least, below):
        raise PreflightError("the cluster's Ray does not fit", got=version, want=f">={least},<{below}", fix="install that on every node")


def _send(method: str, url: str, path: str, headers: Mapping[str, str], **content: Any) -> requests.Response:
    """One request. No .netrc or redirection may replace what we send; a proxy of the environment is not asked for loopback."""
    import requests

    with requests.Session() as session:
        session.trust_env = not is_loopback(url)
        try:
            return session.request(method, url + path, auth=_sender(headers), timeout=TIMEOUT_S, allow_redirects=False, **content)
        except requests.RequestException as error:
            cause = masked(str(error)).partition("(Caused by ")[2].rstrip(")") or type(error).__name__
            raise OutOfReachError(
                "no job server answers there",
                got=f"{url}: {cause}",
                want=f"a head with Ray's dashboard and job server: http://HEAD:{PORT}",
                fix="check the address and the tunnel; the head needs `pip install 'ray[default]'` (tunefleet[cluster])",
            ) from None  # the exception holds the request, and the request the token


def _sender(headers: Mapping[str, str]) -> Callable[[Any], Any]:
    """Sets our headers last of all."""

    def put(request: Any) -> Any:
        request.headers.update(headers)
        return request

    return put


def _checked(url: str, path: str, answer: requests.Response) -> requests.Response:
    if answer.status_code < 300:
        return answer
    line = next((line for line in reversed(masked(answer.text).strip().splitlines()) if line.strip()), "")
    got = f"{url}{path}: HTTP {answer.status_code} {line[:300]}"
    if answer.status_code in (401, 403):
        raise PreflightError("the cluster refuses the token", got=got, want=_WANT_TOKEN, fix=_FIX_TOKEN)
    if answer.status_code < 500:
        raise SettingsError("the job server refuses", got=got, want="what it knows", fix="`tunefleet jobs` lists its jobs")
    raise StorageError("the job server failed", got=got, want="an answer", fix="see the head's dashboard log; try again")
