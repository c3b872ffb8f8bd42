"""Who answers on a host, and whom a stranger may ask for what. Without a token; run on another host. Usage: knocking.py HOST, answers as JSON on stdout.

Ports that speak gRPC are asked for everything that Ray knows to be asked for, whatever it would do; others for web pages, and to make an environment.
"""

import http.client
import importlib
import json
import pkgutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

NODE = (("node_id", "ab" * 28),)
"""Who a node says that it is. Without it Ray 2.60 ends its process at the question StartSync, before it looks for a token."""
PATIENCE_S = 10.0
"""How long a port may take to answer on a busy machine."""
OTHERS = (
    ("grpc.health.v1.Health/Check", False, False),
    ("ray.rpc.ObjectManagerService/Push", False, False),
    ("ray.rpc.ObjectManagerService/Pull", False, False),
    ("ray.rpc.ObjectManagerService/FreeObjects", False, False),
    ("ray.rpc.syncer.RaySyncer/StartSync", True, True),
)
"""What Ray has in C++ alone: (name, whether the question is a stream, whether the answer is)."""
PAGES = (
    ("GET", "/"),
    ("GET", "/api/gcs_healthz"),
    ("GET", "/api/version"),
    ("GET", "/api/jobs/"),
    ("GET", "/logs"),
    ("GET", "/worker/traceback?pid=1"),
    ("POST", "/get_or_create_runtime_env"),
    ("POST", "/api/job_agent/jobs/"),
    ("POST", "/api/jobs/"),
)
"""The first is asked of every port: what has no answer to it speaks something else."""


def answering(host):
    found = []
    for port in range(1, 65536):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                found.append(port)
    return found


def speaks_grpc(host, port):
    """None where nobody is there any more."""
    try:
        door = socket.create_connection((host, port), timeout=PATIENCE_S)
    except OSError:
        return None
    with door:
        try:
            door.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            head = door.recv(9)
        except OSError:
            return False
    return len(head) == 9 and head[3] == 4  # a frame of settings


def methods():
    """All that can be asked of a process of Ray, as its own descriptions have it."""
    from ray.core import generated

    found = list(OTHERS)
    for module in pkgutil.walk_packages(generated.__path__, f"{generated.__name__}."):
        if module.name.endswith("_pb2"):
            for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                found += [(f"{service.full_name}/{method.name}", method.client_streaming, method.server_streaming) for method in service.methods]
    return found


def asked(host, port):
    said = {}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method, sends, receives in methods():
            kind = f"{'stream' if sends else 'unary'}_{'stream' if receives else 'unary'}"
            calls = {"unary_unary": channel.unary_unary, "unary_stream": channel.unary_stream, "stream_stream": channel.stream_stream}
            try:
                answer = calls[kind](f"/{method}")(iter([b""]) if sends else b"", timeout=6 * PATIENCE_S, metadata=NODE)
                said[method] = "OK" if not receives or next(answer, None) is not None else "END"
            except grpc.RpcError as error:
                said[method] = error.code().name
    return {method: status for method, status in said.items() if status != "UNAVAILABLE"}  # it has gone in between


def web(host, port, method, path):
    """The status and the beginning of the page; (0, b"") where it is not HTTP that is spoken."""
    door = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        door.request(method, path)
        answer = door.getresponse()
        return answer.status, answer.read(100)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        door.close()


def told(host, port):
    """How a port speaks and what it says to whom; None where nobody is there any more."""
    speaks = speaks_grpc(host, port)
    if speaks is None:
        return None
    if speaks:
        return {"speaks": "grpc", "said": asked(host, port)}
    first, page = web(host, port, *PAGES[0])
    if page.startswith(b"# HELP"):
        return {"speaks": "metrics", "said": {}}
    said = {f"{method} {path}": web(host, port, method, path)[0] for method, path in PAGES} if first else {}
    return {"speaks": "http" if said else "other", "said": said}


def main(host):
    ports = answering(host)
    with ThreadPoolExecutor(max(1, len(ports))) as pool:  # what speaks neither is silent for as long as it is listened to
        found = dict(zip(ports, pool.map(lambda port: told(host, port), ports), strict=True))
    sys.stdout.write(json.dumps({port: answer for port, answer in found.items() if answer}))


if __name__ == "__main__":
    main(sys.argv[1])
