"""A fault proxy before an S3 server: it passes requests on, counts them, and breaks those that a rule names.

proxy.fault("500", times=3)                      # the next three requests
proxy.fault("stall", method="GET", times=1)      # the next GET gets headers and half of its body, then nothing
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal["500", "503", "403", "expired", "stall", "trickle", "short", "reset", "lost", "pause", "flip"]
"""``lost``: the request is done, its answer is a 500. ``reset``: the connection is cut. ``pause``: waits for ``release``, then goes on. ``flip``: one bit of
what is sent is another."""
_CODES = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "lost": (500, "InternalError"),
}


@dataclass
class Fault:
    """Breaks requests that it ``applies`` to: after the first ``after`` of them, ``times`` of them (None: all)."""

    kind: Kind
    times: int | None
    after: int
    applies: Callable[[Request], bool]
    hits: int = 0


@dataclass(frozen=True)
class Request:
    """What a client asked for. ``key`` is the access key that signed it."""

    method: str
    path: str
    key: str


@dataclass
class Proxy:
    """A running proxy."""

    server: ThreadingHTTPServer
    endpoint: str
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def fault(
        self, kind: Kind, *, times: int | None = None, after: int = 0, method: str = "", path: str = "", unless_key: str = "", query: str | None = None
    ) -> Fault:
        """Break requests of a method (all when empty) whose path has a text in it, and which another key than ``unless_key`` signed."""

        def applies(request: Request) -> bool:
            fits = request.method == method or not method
            return fits and path in request.path and (not unless_key or request.key != unless_key) and (query is None or query in request.path)

        rule = Fault(kind, times, after, applies)
        with self.lock:
            self.faults.append(rule)
        return rule

    def clear(self) -> None:
        """Break nothing more, and forget what was counted."""
        self.release.set()
        with self.lock:
            self.faults.clear()
            self.requests.clear()
        self.release = threading.Event()

    def judge(self, request: Request) -> Kind | None:
        """Count a request, and say how it is to be broken."""
        with self.lock:
            self.requests.append(request)
            for rule in self.faults:
                if not rule.applies(request):
                    continue
                if rule.after > 0:
                    rule.after -= 1
                elif rule.times is None or rule.times > 0:
                    rule.times = None if rule.times is None else rule.times - 1
                    rule.hits += 1
                    return rule.kind
        return None

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests there were."""
        with self.lock:
            return sum((not method or r.method == method) and path in r.path for r in self.requests)

    def stop(self) -> None:
        """Cut what hangs, and end."""
        self.done.set()
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


def start(host: str, port: int) -> Proxy:
    """A proxy on a free port of loopback."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            pass  # a client that gave up is what many tests are about

    server = Server(("127.0.0.1", 0), _handler(host, port))
    proxy = Proxy(server, f"http://127.0.0.1:{server.server_address[1]}")
    server.proxy = proxy  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, name="fault proxy", kwargs={"poll_interval": 0.05}, daemon=True).start()
    return proxy


def _handler(host: str, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def log_message(self, *_: Any) -> None:
            pass

        def _serve(self) -> None:
            proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
            if "100-continue" in self.headers.get("Expect", "").lower():
                pass  # http.server has answered it
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            kind = proxy.judge(Request(self.command, self.path, key))
            if kind == "pause":
                proxy.release.wait()
            if kind == "flip":
                body = bytes([body[0] ^ 1]) + body[1:]
            if kind == "reset":
                self._cut()
                return
            if kind == "stall" and self.command != "GET":
                proxy.done.wait()
                return
            if kind in _CODES and kind != "lost":
                self._refuse(*_CODES[kind])
                return
            upstream = http.client.HTTPConnection(host, port, timeout=120)
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        upstream.putheader(name, value)
                upstream.endheaders(body or None)
                answer = upstream.getresponse()
                data = answer.read()
                if kind == "lost":
                    self._refuse(*_CODES["lost"])
                else:
                    self._answer(proxy, kind, answer, data)
            finally:
                upstream.close()

        def _answer(self, proxy: Proxy, kind: Kind | None, answer: http.client.HTTPResponse, data: bytes) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
            if length is not None:
                self.send_header("Content-Length", length)
            self.end_headers()
            if kind in ("stall", "short", "trickle") and self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                if kind == "stall":
                    proxy.done.wait()
                for byte in data[len(data) // 2 :] if kind == "trickle" else b"":
                    if proxy.done.wait(0.2):
                        break
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                self._cut()
            else:
                self.wfile.write(data)

        def _refuse(self, status: int, code: str) -> None:
            text = "" if self.command == "HEAD" else f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
            self.send_response_only(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def _cut(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    return Handler
