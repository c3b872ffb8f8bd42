"""What leaves this machine with a submission: the run as it will run and the modules that it names; never what else lies there."""

import sys

import pytest
import yaml

from tunefleet.cluster.errors import Refusal, RequestError, SettingsError
from tunefleet.cluster.jobs import Node, head_problems, is_here
from tunefleet.cluster.session import spot_warning
from tunefleet.trainers.evaluation.suite import read_suite
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
STUDY = {"run": "run.yaml", "space": {"training.learning_rate": {"choice": [1e-4, 1e-3]}}, "output": "s3://bucket/study"}
OBJECTIVE = """
from tunefleet.cluster.settings import Settings

class Kto:
    class Config(Settings):
        kind: str = "mylab.kto"
"""


METRIC = """
from tunefleet.cluster.settings import Settings

class Score:
    class Config(Settings):
        kind: str = "mylab.score"
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


def study_of(folder, **sections):
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **sections}))
    return str(folder / "study.yaml")


def test_earlier_studies_are_named_by_their_place_and_refused_where_the_cluster_cannot_see_them(folder):
    written(folder)
    subject = study_of(folder, searcher={"kind": "tpe", "warm_start": ["studies/old", "s3://bucket/older"]})
    with pytest.raises(SettingsError, match=r"searcher\.warm_start\.0: the cluster is elsewhere"):
        far(subject)
    shipped = yaml.safe_load(far(subject, here=True).files["study.yaml"])
    assert shipped["searcher"]["warm_start"] == [str(folder / "studies" / "old"), "s3://bucket/older"]
    with pytest.raises(SettingsError, match=r"searcher\.warm_start\.0") as refused:
        far(study_of(folder, searcher={"kind": "tpe", "warm_start": ["s3://me:canary@bucket/old"]}))
    assert "canary" not in str(refused.value)


def test_a_wrong_study_is_refused_here_with_all_that_its_files_say(folder):
    """None of what it names is there, neither rows nor model nor the packages of a searcher: that is for the cluster to say."""
    written(folder, evaluation={"every_steps": 2}, data={**RUN["data"], "holdout": 0.1})
    far(study_of(folder, searcher={"kind": "tpe", "warm_start": ["s3://bucket/no-such-study"]}))
    wrong = {"training.lerning_rate": {"choice": [1]}, "data.holdout": {"choice": [0.1, 0.2]}, "training.learning_rate": {"choice": [1e-3]}}
    with pytest.raises(Refusal) as refused:
        far(study_of(folder, space=wrong, metric="los", stopper={"kind": "asha", "grace_steps": 1}, budget={"max_steps": 1}))
    said = [problem.what.partition(" (")[0] for problem in refused.value.problems]
    assert set(said) == {
        "training.lerning_rate: unknown key",
        "space.data.holdout: all trials share it",
        "metric: no evaluation computes it",
        "stopper.grace_steps: steps that no evaluation meets",
        "budget.max_steps: spent before one trial has ended",
    }


SUITE = {"name": "exams", "sets": {"sums": {"sources": [{"path": "s3://bucket/sums.jsonl"}]}}}


def suite_of(folder, place="s3://bucket/sums.jsonl", **sections):
    (folder / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "sets": {"sums": {"sources": [{"path": place}]}}, **sections}))
    return {"evaluation": {"suite": "suite.yaml"}}


def test_a_suite_goes_along_in_its_place_with_the_modules_that_it_names(folder):
    (folder / "mylab" / "score.py").write_text(METRIC)
    named = suite_of(folder, metrics=["loss", "mylab.score"], store="s3://bucket/suites")
    parcel = far(written(folder, **named))
    assert sorted(parcel.files) == ["mylab/__init__.py", "mylab/kto.py", "mylab/score.py", "run.yaml"]
    suite = read_suite(RunFile.model_validate(yaml.safe_load(parcel.files["run.yaml"])).evaluation.suite).value
    assert (suite.name, list(suite.sets), suite.store) == ("exams", ["sums"], "s3://bucket/suites")
    assert suite == read_suite("suite.yaml").value
    assert not any(b"canary" in content for content in parcel.files.values())


def test_the_rows_of_a_suite_are_files_of_this_machine_too(folder):
    subject = written(folder, **suite_of(folder, "rows.jsonl"))
    with pytest.raises(SettingsError, match=r"evaluation\.suite\.sets\.sums\.sources\.0\.path"):
        far(subject)
    shipped = yaml.safe_load(far(subject, here=True).files["run.yaml"])
    assert shipped["evaluation"]["suite"]["sets"]["sums"]["sources"][0]["path"] == str(folder / "rows.jsonl")


@pytest.mark.parametrize(
    ("suite", "said"),
    [({"sets": {}}, "sets"), ({"setz": 1}, "setz"), ({"sets": {"a": {"sources": [{"path": "s3://me:canary@b/x"}]}}}, "sources.0.path")],
    ids=["no-sets", "misspelt", "secret"],
)
def test_a_wrong_suite_is_refused_with_its_own_words(folder, suite, said):
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    with pytest.raises(RequestError, match=r"evaluation\.suite") as refused:
        far(written(folder, evaluation={"suite": "suite.yaml"}))
    assert said in str(refused.value)
    assert "canary" not in str(refused.value)
    (folder / "suite.yaml").unlink()
    with pytest.raises(SettingsError, match=r"evaluation\.suite"):
        far(written(folder, evaluation={"suite": "suite.yaml"}))


def test_a_template_that_is_not_there_is_refused(folder):
    with pytest.raises(SettingsError, match=r"data\.chat_template"):
        far(written(folder, data={**RUN["data"], "chat_template": "chat.jinja"}))


def test_no_place_of_a_run_file_is_forgotten(folder):
    """Each of them a folder of this machine, and the cluster elsewhere: every one is said."""
    here = str(folder / "somewhere")
    data = {"train": [{"path": here}], "holdout": [{"path": here}], "store": here, "replay": {"store": here, "ratio": 0.1}}
    places = {"model": {"name_or_path": here, "tokenizer": {"name_or_path": here}}, "data": data, "output": here, **suite_of(folder, here, store=here)}
    with pytest.raises(Refusal) as refused:
        far(written(folder, **places, logging={"trackers": [{"kind": "mlflow", "tracking_uri": here}]}))
    named = {problem.what.partition(": ")[0] for problem in refused.value.problems}
    suite = {"evaluation.suite.store", "evaluation.suite.sets.sums.sources.0.path"}
    rows = {"data.train.0.path", "data.holdout.0.path", "data.store", "data.replay.store"}
    assert named == {"model.name_or_path", "model.tokenizer.name_or_path", "output", "logging.trackers.0.tracking_uri", *rows, *suite}
    with pytest.raises(SettingsError, match=r"model\.init_from"):
        far(written(folder, model={"init_from": here}))


def test_a_studys_run_takes_along_what_it_stands_on_and_its_suite(folder):
    written(folder, "base.yaml", export={"merge": True}, output="s3://bucket/base")
    written(folder, model={"name_or_path": "base.yaml"}, **suite_of(folder))
    study = {"run": "run.yaml", "space": {"training.learning_rate": {"choice": [1e-4, 1e-3]}}, "output": "s3://bucket/study"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    parcel = far(str(folder / "study.yaml"))
    assert sorted(parcel.files) == ["base-1.yaml", "study.yaml"]
    inner = yaml.safe_load(parcel.files["study.yaml"])["run"]
    assert inner["model"]["name_or_path"] == "base-1.yaml"
    assert inner["evaluation"]["suite"]["name"] == "exams"
    assert yaml.safe_load(parcel.files["base-1.yaml"])["output"] == "s3://bucket/base"


@pytest.mark.parametrize("words", [["--dry-run"], ["--namespace", "x"], ["--image", "x"], ["--overlay", "x"], ["--retries", "1"]], ids=lambda words: words[0])
def test_an_option_that_would_be_ignored_is_refused(folder, capsys, words):
    assert main(["submit", written(folder), *words]) == 2
    assert f"{words[0]}: only with --kubernetes" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["run", "study"])
def test_a_secret_in_an_address_is_refused_unseen(folder, place):
    subject = written(folder, output="s3://me:canary@bucket/out")
    if place == "study":
        written(folder)
        (folder / "study.yaml").write_text(yaml.safe_dump({"run": "run.yaml", "space": {}, "output": "s3://me:canary@bucket/out"}))
        subject = str(folder / "study.yaml")
    with pytest.raises(SettingsError) as refused:
        far(subject)
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
