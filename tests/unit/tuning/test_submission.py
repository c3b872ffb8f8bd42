"""What leaves this machine with a submission: the run as it will run and the modules that it names; never what else lies there."""

import sys

import pytest
import yaml

from tunefleet.cluster.errors import Refusal, SettingsError
from tunefleet.cluster.jobs import Node, head_problems, is_here
from tunefleet.cluster.session import spot_warning
from tunefleet.trainers.run import RunFile
from tunefleet.tuning.cli import main
from tunefleet.tuning.submission import is_study, local_paths, parcel_of

RUN = {
    "name": "mine",
    "model": {"name_or_path": "org/model"},
    "data": {"train": [{"path": "s3://bucket/rows.jsonl"}], "store": "s3://bucket/shards"},
    "training": {"max_steps": 3},
    "output": "s3://bucket/out",
}
OBJECTIVE = """
from tunefleet.cluster.settings import Settings

class Kto:
    class Config(Settings):
        kind: str = "mylab.kto"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the user's: a run file, a module of his own, and what should stay at home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "__init__.py").write_text("")
    (tmp_path / "mylab" / "kto.py").write_text(OBJECTIVE)
    for name in (".env", "mylab/.env", "key.pem", "mylab/key.pem", "rows.jsonl", "mylab/notes.txt", "data/__init__.py", "other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("canary = 'canary'\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def written(folder, name="run.yaml", **sections):
    (folder / name).write_text(yaml.safe_dump({**RUN, **sections}))
    return str(folder / name)


def far(subject, overrides=None, **options):
    return parcel_of(subject, overrides or {}, **{"here": False, "shared": (), **options})


def test_a_run_goes_with_its_overrides_and_can_go_on(folder):
    parcel = far(written(folder), {"training.max_steps": "7"})
    assert sorted(parcel.files) == ["run.yaml"]
    shipped = yaml.safe_load(parcel.files["run.yaml"])
    assert RunFile.model_validate(shipped).training.max_steps == 7
    assert parcel.words == ("train", "run.yaml", "--resume=auto", "--address", "auto")
    assert (parcel.title, parcel.kind, parcel.output, parcel.grace_s) == ("mine", "run", "s3://bucket/out", 120.0)
    assert "--overwrite" in far(written(folder), overwrite=True).words


def test_modules_of_dotted_kinds_go_and_nothing_else_of_the_folder(folder):
    parcel = far(written(folder, objective={"kind": "mylab.kto"}))
    assert sorted(parcel.files) == ["mylab/__init__.py", "mylab/kto.py", "run.yaml"]
    assert b"canary" not in b"".join(parcel.files.values())
    assert sorted(far(written(folder), modules=["mylab"]).files) == sorted(parcel.files)


@pytest.mark.parametrize("name", ["nowhere_to_be_found", "tunefleet", "sys"])
def test_a_module_that_cannot_be_shipped_is_refused(folder, name):
    with pytest.raises(SettingsError, match="cannot be shipped"):
        far(written(folder), modules=[name])


def test_paths_of_this_machine_are_refused_by_a_cluster_elsewhere_all_at_once(folder):
    (folder / "model").mkdir()
    sections = {"model": {"name_or_path": "./model"}, "data": {"train": [{"path": "rows.jsonl"}], "store": "shards"}, "output": "out"}
    subject = written(folder, **sections)
    with pytest.raises(Refusal) as refused:
        far(subject)
    assert [p.what.partition(":")[0] for p in refused.value.problems] == ["model.name_or_path", "data.train.0.path", "data.store", "output"]
    assert all("s3://" in p.fix and "--shared" in p.fix for p in refused.value.problems)
    assert far(subject, shared=[str(folder)]).output == str(folder / "out")
    here = far(subject, here=True)
    assert yaml.safe_load(here.files["run.yaml"])["data"]["train"][0]["path"] == str(folder / "rows.jsonl")


def test_small_texts_and_base_runs_go_along(folder):
    (folder / "chat.jinja").write_text("{{ messages }}")
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 300}')
    base = {"model": {"init": "random", "config": "config.json"}, "export": {"merge": True}, "output": "s3://bucket/base"}
    written(folder, "base.yaml", **base)
    parcel = far(written(folder, model={"name_or_path": "base.yaml"}, data={**RUN["data"], "chat_template": "./chat.jinja"}))
    run, inner = (yaml.safe_load(parcel.files[name]) for name in ("run.yaml", "base-1.yaml"))
    assert run["model"]["name_or_path"] == "base-1.yaml"
    assert run["data"]["chat_template"] == "{{ messages }}"
    assert inner["model"]["config"]["vocab_size"] == 300
    assert not list(local_paths(run)) + list(local_paths(inner))


def test_runs_that_stand_on_each_other_in_a_circle_are_refused(folder):
    written(folder, "a.yaml", model={"name_or_path": "b.yaml"})
    written(folder, "b.yaml", model={"name_or_path": "a.yaml"})
    with pytest.raises(SettingsError, match="circle"):
        far(str(folder / "a.yaml"))


def test_a_study_is_one_file_with_its_run_in_place(folder):
    written(folder, objective={"kind": "mylab.kto"})
    study = {"name": "lr", "run": "run.yaml", "space": {"training.learning_rate": {"loguniform": [1e-4, 1e-1]}}, "output": "s3://bucket/study"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    assert is_study(str(folder / "study.yaml"))
    assert not is_study(str(folder / "run.yaml"))
    parcel = far(str(folder / "study.yaml"))
    shipped = yaml.safe_load(parcel.files["study.yaml"])
    assert shipped["run"]["output"] == "s3://bucket/out"
    assert parcel.words[:2] == ("tune", "study.yaml")
    assert (parcel.kind, parcel.output) == ("study", "s3://bucket/study")
    assert "mylab/kto.py" in parcel.files


def test_a_secret_in_an_address_is_refused_unseen(folder):
    with pytest.raises(SettingsError) as refused:
        far(written(folder, output="s3://me:canary@bucket/out"))
    assert "canary" not in str(refused.value)


def test_a_head_on_a_spot_node_is_refused_unless_it_is_wanted():
    def nodes(market):
        return [
            Node("head", "10.0.0.1", True, "", {"ray.io/market-type": market} if market else {}),
            Node("w", "10.0.0.2", False, "", {"ray.io/market-type": "spot"}),
        ]

    (problem,) = head_problems(nodes("spot"), spot_head=False)
    assert "10.0.0.1" in problem.got
    assert head_problems(nodes("SPOT"), spot_head=True) == []
    assert head_problems(nodes("on-demand"), spot_head=False) == head_problems(nodes(""), spot_head=False) == []


def test_a_driver_on_a_spot_node_is_told_so():
    assert spot_warning({"ray.io/market-type": "on-demand"}) == spot_warning({}) == ()
    (said,) = spot_warning({"ray.io/market-type": "spot"})
    assert "ray.io/market-type=spot" in said


def test_a_cluster_is_here_only_when_its_own_folder_is(tmp_path):
    import socket

    mine = Node(socket.gethostname(), "127.0.0.1", True, str(tmp_path), {})
    assert is_here([mine])
    assert not is_here([])
    assert not is_here([mine, Node("elsewhere", "10.0.0.2", False, str(tmp_path), {})])
    assert not is_here([Node(socket.gethostname(), "127.0.0.1", True, str(tmp_path / "none"), {})])


def test_without_an_address_the_way_out_is_said(folder, capsys, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    for verb in (["submit", written(folder)], ["jobs"], ["logs", "x"], ["stop", "x"]):
        assert main(verb) == 2
        assert "http://HEAD:8265" in capsys.readouterr().err
