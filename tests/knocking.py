"""Who answers on a host, and whom a stranger may ask for what. Without a token; run on another host. Usage: knocking.py HOST, answers as JSON on stdout.

Ports that speak gRPC are asked for what would run code, stop something or tell the cluster's state; others for a web page, and to make an environment.
"""

import http.client
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

PATIENCE_S = 10.0
"""How long a port may take to answer on a busy machine."""
METHODS = (
    "CoreWorkerService/PushTask",
    "CoreWorkerService/KillActor",
    "NodeManagerService/RequestWorkerLease",
    "NodeManagerService/ShutdownRaylet",
    "ObjectManagerService/Push",
    "ActorInfoGcsService/RegisterActor",
    "JobInfoGcsService/GetAllJobInfo",
    "InternalKVGcsService/InternalKVGet",
    "RayletDriver/Schedule",
    "ReporterService/GetTraceback",
    "ReporterService/CpuProfiling",
)
PAGES = (
    ("GET", "/"),
    ("GET", "/metrics"),
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


def asked(host, port):
    said = {}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=6 * PATIENCE_S)
                said[method] = "OK"
            except grpc.RpcError as error:
                said[method] = error.code().name
    return {method: status for method, status in said.items() if status != "UNAVAILABLE"}  # it has gone in between


def web(host, port, method, path):
    door = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        door.request(method, path)
        return door.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        door.close()


def told(host, port):
    """How a port speaks and what it says to whom; None where nobody is there any more."""
    speaks = speaks_grpc(host, port)
    if speaks is None:
        return None
    if speaks:
        return {"speaks": "grpc", "said": asked(host, port)}
    first = web(host, port, *PAGES[0])
    said = {f"{method} {path}": status for method, path in PAGES if (status := web(host, port, method, path))} if first else {}
    return {"speaks": "http" if said else "other", "said": said}


def main(host):
    ports = answering(host)
    with ThreadPoolExecutor(max(1, len(ports))) as pool:  # what speaks neither is silent for as long as it is listened to
        found = dict(zip(ports, pool.map(lambda port: told(host, port), ports), strict=True))
    sys.stdout.write(json.dumps({port: answer for port, answer in found.items() if answer}))


if __name__ == "__main__":
    main(sys.argv[1])
