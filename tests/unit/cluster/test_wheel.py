"""What is shipped is code, by an allow-list, and is what runs here."""

import io
import os
import subprocess
import sys
import zipfile

import pytest

from tunefleet.cluster.wheel import archive, module_files, sources, wheel

FORBIDDEN = (
    ".env",
    ".env.py",
    "key.pem",
    "id_rsa",
    "credentials.json",
    "rows.jsonl",
    ".git/config.py",
    "__pycache__/x.py",
    "notes.txt",
    ".ssh/a.py",
    "model.safetensors",
)


@pytest.fixture
def lab(tmp_path):
    """A package of one's own, with what should stay at home in it and beside it."""
    package = tmp_path / "work" / "lab"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "kto.py", "inner/__init__.py", "inner/maths.py", "py.typed"):
        (package / name).write_text("VALUE = 1\n")
    for name in FORBIDDEN:
        for folder in (package, package / "inner", package.parent):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("canary")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text("canary")
    (package / "linked.py").symlink_to(outside / "secret.py")
    (package / "linked").symlink_to(outside)
    return package


def test_of_a_package_only_its_python_files_go(lab):
    found = module_files(lab)
    assert sorted(found) == ["lab/__init__.py", "lab/inner/__init__.py", "lab/inner/maths.py", "lab/kto.py", "lab/py.typed"]
    assert b"canary" not in b"".join(found.values())


def test_of_a_single_module_only_its_file_goes(lab):
    assert module_files(lab / "kto.py") == {"kto.py": b"VALUE = 1\n"}


def test_the_wheel_is_this_package_and_runs_alone(tmp_path):
    name, content = wheel()
    assert name.startswith("tunefleet-")
    assert name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path)
    assert {name.rpartition(".")[2] for name in names if name.startswith("tunefleet/")} <= {"py", "typed"}
    assert {"tunefleet/cluster/jobs.py", "tunefleet/data/stream.py", "tunefleet/trainers/run.py", "tunefleet/tuning/cli.py"} <= set(names)
    record = next((tmp_path / name).read_text() for name in names if name.endswith("RECORD"))
    assert sorted(line.partition(",")[0] for line in record.splitlines()) == sorted(names)
    command = [sys.executable, "-P", "-c", "import tunefleet; from tunefleet.tuning.cli import main; print(tunefleet.__file__); main(['--version'])"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True, capture_output=True, text=True)
    assert str(tmp_path) in done.stdout
    assert name.split("-")[1] in done.stdout


def test_the_same_code_is_the_same_parcel():
    assert wheel() == wheel()
    assert archive({"b": b"2", "a": b"1"}) == archive({"a": b"1", "b": b"2"})


def test_links_of_a_working_copy_are_followed_once(tmp_path):
    floor, package = tmp_path / "floor", tmp_path / "src" / "ours"
    floor.mkdir()
    package.mkdir(parents=True)
    (floor / "a.py").write_text("1")
    (floor / "out").symlink_to(tmp_path / "src")
    (package / "floor").symlink_to(floor)
    assert [name for name, _ in sources(package, links=True)] == ["floor/a.py"]
    assert list(sources(package)) == []
