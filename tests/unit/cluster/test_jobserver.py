"""A job server that is missing, closed, open or something else: each is told apart, in plain words, and no secret is said."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tunefleet.cluster.errors import PreflightError, SettingsError, StorageError
from tunefleet.cluster.jobs import follow
from tunefleet.cluster.jobserver import find_token, job_server, server_url
from tunefleet.tuning.cli import main

TOKEN = "canary-token-0123456789"
VERSION = json.dumps({"version": "4", "ray_version": "2.60.0"})


class Handler(BaseHTTPRequestHandler):
    """Answers as a head does that wants TOKEN; what else a server may say stands in ``answers``, by path, or one after the other in a list."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        given = self.headers.get("Authorization")
        answer = self.server.answers.get(self.path.partition("?")[0], (404, "no such page"))
        status, text = answer.pop(0) if isinstance(answer, list) else answer
        if self.server.guarded and given is None:
            status, text = 401, "Unauthorized: Missing authentication token"
        elif self.server.guarded and given != f"Bearer {TOKEN}":
            status, text = 403, "Forbidden: Invalid authentication token"
        self.send_response(status)
        if status == 302:
            self.send_header("Location", text)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET  # noqa: N815 - the name that the server calls

    def log_message(self, *_):
        pass


@pytest.fixture
def head():
    """A server on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.guarded, server.seen, server.answers = True, [], {"/api/version": (200, VERSION)}
    server.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_token_is_taken_from_where_ray_looks_for_it(head, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(f"{TOKEN}\n")
    for environment in ({"RAY_AUTH_TOKEN": TOKEN}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / ".ray" / "auth_token")}):
        server = job_server(head.address, environment)
        assert server.guarded
        assert server.remarks() == []
        assert TOKEN not in repr(server)


@pytest.mark.parametrize("environment", [{"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, {"RAY_AUTH_TOKEN": "  ", "RAY_AUTH_TOKEN_PATH": "/dev/null"}])
def test_a_missing_token_is_said_with_where_it_was_looked_for(head, environment):
    with pytest.raises(PreflightError, match="token is missing") as refused:
        job_server(head.address, environment)
    assert environment["RAY_AUTH_TOKEN_PATH"] in refused.value.got
    assert "RAY_AUTH_TOKEN_PATH" in refused.value.want


def test_a_wrong_token_is_said_and_not_shown(head):
    with pytest.raises(PreflightError, match="refuses the token") as refused:
        job_server(head.address, {"RAY_AUTH_TOKEN": "canary-wrong"})
    assert "RAY_AUTH_TOKEN" in refused.value.got
    assert "canary" not in str(refused.value)


def test_an_open_cluster_gets_no_token_and_is_said(head):
    head.guarded = False
    server = job_server(head.address, {"RAY_AUTH_TOKEN": TOKEN, "RAY_JOB_HEADERS": '{"X-Proxy": "canary-header"}'})
    assert not server.guarded
    assert "asks for no token" in server.remarks()[0]
    assert all("Authorization" not in headers and headers["X-Proxy"] == "canary-header" for _, headers in head.seen)


def test_a_token_never_follows_a_redirection(head):
    head.answers["/api/version"] = (302, "http://elsewhere.example/?key=canary")
    with pytest.raises(PreflightError, match="leads elsewhere") as refused:
        job_server(head.address, {"RAY_AUTH_TOKEN": TOKEN})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(("said", "what"), [("<html>", "no job server"), ("[]", "no job server"), ('{"ray_version": "2.9.0"}', "does not fit")])
def test_what_is_no_head_of_ours_is_told_apart(head, said, what):
    head.answers["/api/version"] = (200, said)
    with pytest.raises(PreflightError, match=what):
        job_server(head.address, {"RAY_AUTH_TOKEN": TOKEN})


def test_where_nothing_listens_the_way_out_is_said(head):
    host = head.address
    head.shutdown()
    head.server_close()
    with pytest.raises(PreflightError, match="no job server answers") as refused:
        job_server(host, {"RAY_AUTH_TOKEN": TOKEN})
    assert "ray[default]" in refused.value.fix


@pytest.mark.parametrize(("status", "kind"), [(400, SettingsError), (403, PreflightError), (500, StorageError)])
def test_what_the_server_refuses_is_our_error(head, status, kind):
    server = job_server(head.address, {"RAY_AUTH_TOKEN": TOKEN})
    head.answers["/api/jobs/"] = (status, "Traceback\n  at s3://me:canary@bucket\nValueError: no such thing\n")
    with pytest.raises(kind) as refused:
        server.get("/api/jobs/")
    assert "canary" not in str(refused.value)
    assert "no such thing" in refused.value.got


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head", "http://head:8265"),
        ("head:9000/", "http://head:9000"),
        ("https://ray.example/team", "https://ray.example:443/team"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_is_a_url_or_host_and_port(address, url):
    assert server_url(address) == url


@pytest.mark.parametrize("address", ["http://me:canary@head:8265", "http://head:8265?token=canary", "head:6379", "ray://head:10001", "http://", "head:no"])
def test_other_addresses_are_refused_without_their_secrets(address):
    with pytest.raises(SettingsError, match="--address") as refused:
        server_url(address)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("text", ["canary", "[1]", '{"A": 1}'])
def test_headers_that_are_none_are_refused_unseen(head, text):
    with pytest.raises(SettingsError, match="RAY_JOB_HEADERS") as refused:
        job_server(head.address, {"RAY_JOB_HEADERS": text})
    assert "canary" not in str(refused.value)


def test_a_token_that_cannot_be_read_is_said_by_its_path(tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    place, token = find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    assert token == ""
    assert str(tmp_path / "token") in place


def jobs_said(status):
    return 200, json.dumps([{"submission_id": "mine", "status": status, "driver_exit_code": 0}])


def test_a_server_that_is_away_for_a_moment_ends_no_following(head):
    server, said = job_server(head.address, {"RAY_AUTH_TOKEN": TOKEN}), []
    away = (500, "the dashboard starts again")
    head.answers["/api/jobs/"] = [away, jobs_said("RUNNING"), away, away, jobs_said("SUCCEEDED")]
    head.answers["/api/jobs/mine/logs"] = [away, (200, json.dumps({"logs": "one\ntwo\n"}))]
    assert follow(server, "mine", said.append, poll_s=0.001).status == "SUCCEEDED"
    assert said == ["one", "two"]


def test_a_server_that_refuses_ends_it_at_once(head):
    server = job_server(head.address, {"RAY_AUTH_TOKEN": TOKEN})
    head.answers["/api/jobs/"] = [(403, "Forbidden"), jobs_said("SUCCEEDED")]
    with pytest.raises(PreflightError, match="refuses the token"):
        follow(server, "mine", print, poll_s=0.001)


def test_the_id_of_a_job_stands_whole_in_the_list_of_jobs(head, capsys, monkeypatch):
    name = f"{'a-long-name-of-a-run-' * 2}-1a2b3c"
    told = {"job_name": "a run with a name of many words", "tunefleet.kind": "run", "tunefleet.output": "s3://bucket/a/long/way/down/to/where/it/all/lies"}
    entry = {"submission_id": name, "status": "SUCCEEDED", "start_time": 1_700_000_000_000, "end_time": 1_700_000_100_000, "metadata": told}
    head.answers["/api/jobs/"] = (200, json.dumps([entry]))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert main(["jobs", "--address", head.address]) == 0
    out = capsys.readouterr().out
    assert name in out
    assert out.startswith("1 job ")
