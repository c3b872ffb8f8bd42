"""The preflight: problems as values, all of them, before anything is spent."""

import tomllib
from pathlib import Path

import pytest

from tunefleet.cluster import preflight as checks
from tunefleet.cluster.errors import PreflightError
from tunefleet.cluster.preflight import STACK, environment_problems, memory_problems, preflight, resource_problems, supported, version_problems

PROJECT = Path(__file__).parents[3]
SMALL = {"CPU": 4.0, "GPU": 1.0}


def need(**changes):
    base = {"workers": 2, "cpus_per_worker": 1, "use_gpu": False, "actors": 1, "actor_cpu": 1.0, "actor_gpu": 0.0, "available": SMALL, "local": False}
    return resource_problems(**{**base, **changes})


def test_this_installation_is_fit(tmp_path):
    assert preflight(str(tmp_path), environment={}) == []


def test_the_probe_of_the_output_leaves_nothing(tmp_path):
    preflight(str(tmp_path / "new"), environment={})
    assert list((tmp_path / "new").iterdir()) == []


def test_an_output_that_cannot_be_written_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    (problem,) = preflight(str(tmp_path / "file"), environment={})
    assert problem.what.startswith("output: cannot be written")


def test_ranges_are_those_of_the_project_file():
    wanted = {}
    for line in tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, _, rest = line.partition(">=")
        least, _, below = rest.partition(",<")
        wanted[name.partition("[")[0]] = (least, below)
    assert {name: wanted[name] for name in STACK} == STACK


@pytest.mark.parametrize(
    ("found", "answer"), [("2.60.0", True), ("2.59.9", False), ("3.0", False), ("2.60", True), ("2.100.1+cpu", True), ("2.60.0rc1", True), ("nonsense", False)]
)
def test_versions_compare_by_number(found, answer):
    assert supported(found, "2.60", "3") is answer


def test_a_missing_or_old_package_is_named_with_its_remedy():
    problems = version_problems({"no-such-package-here": ("1", ""), "pydantic": ("99", "")})
    assert [problem.what for problem in problems] == ["no-such-package-here is not installed", "pydantic: this version is not supported"]
    assert problems[1].fix == 'pip install "pydantic>=99"'


@pytest.mark.fault
@pytest.mark.parametrize(("value", "refused"), [("1", True), ("true", True), ("0", False), ("", False), ("false", False)])
def test_the_setting_that_runs_code_from_data_is_refused(value, refused):
    assert bool(environment_problems({"RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": value})) is refused


def test_shared_memory_is_looked_at(tmp_path, monkeypatch):
    assert memory_problems(tmp_path / "none") == []
    assert memory_problems(tmp_path) == []
    monkeypatch.setattr(checks, "_LEAST_SHM_BYTES", 1 << 80)
    (problem,) = memory_problems(tmp_path)
    assert "--shm-size" in problem.fix


def test_what_fits_is_no_problem():
    assert need() == []
    assert need(workers=3) == []


def test_sums_that_can_never_be_scheduled_are_refused():
    (problem,) = need(workers=4)
    assert type(problem) is PreflightError
    assert problem.got == "5 CPUs asked for: 4 workers with 1 each and 1 evaluation actors with 1 each"
    assert "4" in problem.want
    assert "inline" in problem.fix


def test_a_local_cluster_grows_its_logical_cpus_but_no_gpus():
    assert need(workers=64, local=True) == []
    (problem,) = need(use_gpu=True, local=True)
    assert problem.got.startswith("2 GPUs")
    assert "this machine" in problem.want


def test_every_resource_that_lacks_is_reported():
    assert len(need(workers=9, use_gpu=True)) == 2
