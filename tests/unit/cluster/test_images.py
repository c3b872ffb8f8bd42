"""The Dockerfiles: pinned, small, not root, made of what .dockerignore lets in; and what hadolint says of them. Nothing is built here."""

import fnmatch
import re
import shutil
import subprocess

import pytest
from manifests import PROJECT

IMAGES = {path.suffix[1:]: path for path in sorted((PROJECT / "k8s" / "images").glob("Dockerfile.*"))}
IGNORED = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
LOCKED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "k8s" / "images" / "locked.txt").read_text(), re.MULTILINE))


def instructions(text):
    """(instruction, rest) of every line, with continuations joined."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def stages(kind):
    """The instructions of each stage, by its FROM."""
    found = []
    for name, rest in instructions(IMAGES[kind].read_text()):
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def test_there_is_one_for_cpus_and_one_for_nvidia():
    assert set(IMAGES) == {"cpu", "cuda"}


def test_both_make_the_same_wheel():
    assert stages("cpu")[0] == stages("cuda")[0]


@pytest.mark.parametrize("kind", IMAGES)
class TestEveryImage:
    def test_begins_with_a_pinned_python(self, kind):
        bases = [rest for stage in stages(kind) for name, rest in stage if name == "FROM"]
        assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+( AS \w+)?", base) for base in bases)

    def test_runs_as_a_number_that_is_not_root_the_one_of_the_pods(self, kind):
        users = [rest for name, rest in stages(kind)[-1] if name == "USER"]
        assert users == ["1000:1000"]

    def test_installs_by_the_pins_and_keeps_no_cache(self, kind):
        *_, last = stages(kind)
        installs = [rest for name, rest in last if name == "RUN" and "pip install" in rest]
        assert len(installs) == 2
        assert all("-c /opt/tunefleet/locked.txt" in install for install in installs)
        assert ("ENV", True) in [(name, "PIP_NO_CACHE_DIR=1" in rest) for name, rest in last]
        assert not any("apt-get" in rest for _, rest in last)

    def test_takes_nothing_of_this_folder_but_the_package_and_the_pins(self, kind):
        copied = {part for stage in stages(kind) for name, rest in stage if name == "COPY" and "--from" not in rest for part in rest.split()[:-1]}
        assert copied == {line[1:] for line in IGNORED if line.startswith("!")}
        assert all((PROJECT / part).exists() for part in copied)

    def test_holds_no_secret(self, kind):
        assert not re.search(r"(TOKEN|PASSWORD|SECRET|_KEY)=", IMAGES[kind].read_text())

    @pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
    def test_hadolint_finds_nothing(self, kind):
        assert hadolint(IMAGES[kind].read_text()) == ""


def test_nothing_comes_in_unless_it_is_named():
    assert IGNORED[0] == "*"
    assert any(fnmatch.fnmatch("data/.env.local", line) for line in IGNORED[1:] if not line.startswith("!"))


MISTAKES = {
    "DL3006": ("FROM python:3.11.13-slim-bookworm\n", "FROM python\n"),
    "DL3007": ("FROM python:3.11.13-slim-bookworm\n", "FROM python:latest\n"),
    "DL3002": ("USER 1000:1000", "USER root"),
    "DL3020": ("COPY k8s/images/locked.txt", "ADD k8s/images/locked.txt"),
    "DL3025": ('CMD ["tunefleet", "--help"]', "CMD tunefleet --help"),
    "DL3000": ("WORKDIR /home/ray", "WORKDIR home"),
}


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
@pytest.mark.parametrize("rule", MISTAKES)
def test_a_planted_mistake_is_caught(rule):
    before, after = MISTAKES[rule]
    text = IMAGES["cuda"].read_text()
    assert before in text
    assert rule in hadolint(text.replace(before, after))


def hadolint(text):
    return subprocess.run(["hadolint", "--no-color", "-"], input=text, capture_output=True, text=True, check=False).stdout.strip()


def test_the_pins_are_those_that_the_tests_ran_with():
    constraints = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE))
    here = {normal(name): version for name, version in LOCKED.items()}
    assert {name: here[normal(name)] for name in constraints if normal(name) in here} == {name: v for name, v in constraints.items() if normal(name) in here}
    assert {"ray", "torch", "deepspeed", "transformers", "pyarrow", "s3fs", "boto3"} <= here.keys()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
