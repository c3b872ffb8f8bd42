"""A run as a RayJob: strictly valid for Kubernetes and the operator whatever the overlay, one cluster of its own, nothing secret, nothing lost on the way."""

import json
import os

import pytest
import yaml
from kuberay import refusals
from kustomize import render
from manifests import PROJECT, SCHEMAS, problems
from networkpolicies import Peer, allowed, selects

from tunefleet.cluster.errors import PreflightError, Refusal, SettingsError, TunefleetError
from tunefleet.cluster.jobs import Parcel
from tunefleet.cluster.kubernetes import LONGEST_NAME, MOUNT, OWNER, Job, Workers, job_manifests, job_name, owned_by
from tunefleet.trainers.run import RunFile
from tunefleet.tuning.arguments import parser_of
from tunefleet.tuning.commands.submit import VERB
from tunefleet.tuning.kubernetes import afterwards, job_of, overlay, shared_folders, submit
from tunefleet.tuning.submission import parcel_of

OVERLAYS = {name: render(PROJECT / "k8s" / path) for name, path in {"base": "base", **{n: f"overlays/{n}" for n in ("dev", "fleet", "kueue")}}.items()}
COMMAND = ("tunefleet", "train", "run.yaml", "--resume=auto", "--address", "auto")
JOB = Job("gsm8k-ab12", COMMAND, {"run.yaml": "version: 1\n"})
RUN = """\
version: 1
name: GSM8K LoRA
model: {name_or_path: org/model}
data: {train: [{path: s3://bucket/rows.jsonl}], holdout: 0.1, store: s3://bucket/shards}
training: {max_steps: 10}
scaling: {num_workers: 2}
output: s3://bucket/runs/a
"""


@pytest.fixture(params=OVERLAYS)
def rendered(request):
    return job_manifests(OVERLAYS[request.param], JOB)


def parts(rendered):
    return rendered[0]["spec"]["rayClusterSpec"], rendered[0]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]


def test_everything_is_strictly_valid(rendered):
    if not SCHEMAS.is_dir():
        rendered = rendered[1:]
    assert [problem for manifest in rendered for problem in problems(manifest)] == []


def test_the_operator_takes_it(rendered):
    assert refusals(rendered[0]) == []


REFUSED = {
    "a job that outlives its cluster's end": {"shutdownAfterJobFinishes": False},
    "suspended, and kept": {"suspend": True, "shutdownAfterJobFinishes": False, "ttlSecondsAfterFinished": 0},
    "tries below none": {"backoffLimit": -1},
    "no command": {"entrypoint": " "},
    "a submitter beside SidecarMode": {"submissionMode": "SidecarMode"},
    "a cluster that stands, tried again": {"clusterSelector": {"ray.io/cluster": "tunefleet"}},
    "no time at all": {"activeDeadlineSeconds": 0},
    "rules of deletion beside the end": {"deletionStrategy": {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]}},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_operator_refuses_in_a_job_is_caught(change):
    [job, *_] = job_manifests(OVERLAYS["fleet"], JOB)
    assert refusals({**job, "spec": job["spec"] | change})


TYPOS = {"entrypoints": "x", "submissionMode": 1, "ttlSecondsAfterFinished": "600", "suspended": True, "backofflimit": 2}


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="KubeRay's schemas are not beside the project (../shared/kuberay)")
@pytest.mark.parametrize("typo", TYPOS.items(), ids=TYPOS.keys())
def test_a_typo_in_a_job_is_caught(typo):
    [job, *_] = job_manifests(OVERLAYS["fleet"], JOB)
    assert len(problems({**job, "spec": job["spec"] | dict([typo])})) == 1


def test_a_run_has_a_cluster_of_its_own_that_ends_with_it(rendered):
    spec = rendered[0]["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] == JOB.retries
    assert "gcsFaultToleranceOptions" not in spec["rayClusterSpec"]
    assert "suspend" not in spec["rayClusterSpec"]
    assert spec["entrypoint"].split() == ["env", "-C", MOUNT, *COMMAND]


def test_the_head_alone_sees_the_files(rendered):
    spec, head = parts(rendered)
    files = rendered[1]
    assert files["data"] == JOB.files
    volumes = {volume["name"]: volume for volume in head["spec"]["volumes"]}
    [mount] = [mount for mount in head["spec"]["containers"][0]["volumeMounts"] if mount["mountPath"] == MOUNT]
    assert volumes[mount["name"]]["configMap"]["name"] == files["metadata"]["name"]
    assert not any("configMap" in volume for group in spec["workerGroupSpecs"] for volume in group["template"]["spec"]["volumes"])


def test_no_pod_mounts_what_is_not_there(rendered):
    spec, head = parts(rendered)
    for pod in (head, *(group["template"] for group in spec["workerGroupSpecs"]), rendered[0]["spec"]["submitterPodTemplate"]):
        assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} <= {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_submitter_is_held_as_short_as_the_head(rendered):
    _, head = parts(rendered)
    submitter = rendered[0]["spec"]["submitterPodTemplate"]
    assert submitter["metadata"]["labels"] == head["metadata"]["labels"]
    assert submitter["spec"]["securityContext"] == head["spec"]["securityContext"]
    assert submitter["spec"]["automountServiceAccountToken"] is False
    [container] = submitter["spec"]["containers"]
    assert container["securityContext"] == head["spec"]["containers"][0]["securityContext"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert not {"envFrom", "command", "args"} & container.keys()


def test_the_rules_of_one_cluster_are_made_anew_and_let_no_other_in(rendered):
    _, head = parts(rendered)
    mine = Peer({**head["metadata"]["labels"], "ray.io/node-type": "head"})
    worker = Peer({**head["metadata"]["labels"], "ray.io/node-type": "worker"})
    before = Peer({**worker.labels, OWNER: "tunefleet"})
    operator = Peer({"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay-system")
    standing = [document for document in OVERLAYS["base"] if document["kind"] == "NetworkPolicy"]
    policies = standing + [document for document in rendered if document["kind"] == "NetworkPolicy"]
    assert allowed(policies, worker, mine, 6379)
    assert allowed(policies, operator, mine, 8265)
    assert not allowed(policies, before, mine, 6379)
    assert not allowed(policies, mine, before, 6379)
    [budget] = [document for document in rendered if document["kind"] == "PodDisruptionBudget"]
    assert selects(budget["spec"]["selector"], mine.labels)
    assert not selects(budget["spec"]["selector"], before.labels)


def test_names_are_the_jobs_and_none_twice(rendered):
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered]
    assert len(set(names)) == len(names)
    assert all(name.startswith(JOB.name) for _, name in names)


def test_a_job_that_ray_is_asked_to_stop_has_time_to_save(tmp_path):
    parcel = parcel_of(write(tmp_path), {"failures.stop_timeout_s": "30"}, here=False, shared=())
    rendered = job_manifests(OVERLAYS["fleet"], job_of(parcel, "ab12cd"))
    _, head = parts(rendered)
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "90"} in head["spec"]["containers"][0]["env"]


def test_a_queue_lets_the_job_go():
    [job, *_] = job_manifests(OVERLAYS["kueue"], JOB)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "tunefleet"
    assert job["spec"]["suspend"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert job_manifests(OVERLAYS["fleet"], JOB)[0]["spec"]["suspend"] is False


def with_workers(name, **workers):
    [job, *_] = job_manifests(OVERLAYS[name], Job("a", COMMAND, {}, workers=Workers(**workers)))
    return {group["groupName"]: group["replicas"] for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def test_pods_are_as_many_as_the_workers_need():
    assert with_workers("fleet", number=16, cpus=8, gpu=True) == {"cpu": 0, "gpu-on-demand": 0, "gpu-spot": 2}
    assert with_workers("kueue", number=9, cpus=8, gpu=True) == {"cpu": 0, "gpu-on-demand": 0, "gpu-spot": 2}
    assert with_workers("fleet", number=4, cpus=44, gpu=True) == {"cpu": 0, "gpu-on-demand": 0, "gpu-spot": 2}
    assert with_workers("base", number=3, gpu=True) == {"cpu": 0, "gpu": 3}
    assert with_workers("dev", number=3) == {"cpu": 2}


@pytest.mark.parametrize("workers", [Workers(1, gpu=True), Workers(1, cpus=64), Workers(99)])
def test_workers_that_no_pod_holds_are_refused(workers):
    with pytest.raises(SettingsError, match="scaling"):
        job_manifests(OVERLAYS["dev"], Job("a", COMMAND, {}, workers=workers))


def test_the_image_and_the_namespace_may_be_yours():
    rendered = job_manifests(OVERLAYS["fleet"], Job("a", COMMAND, {}, namespace="team", image="registry/mine@sha256:00"))
    assert {manifest["metadata"]["namespace"] for manifest in rendered} == {"team"}
    text = json.dumps(rendered[0])
    assert text.count('"image": "registry/mine@sha256:00"') == 5  # head, three groups, submitter
    assert "tunefleet:0.1.0" not in text


def test_the_overlay_stays_as_it_is():
    before = json.dumps(OVERLAYS["fleet"])
    job_manifests(OVERLAYS["fleet"], JOB)
    assert json.dumps(OVERLAYS["fleet"]) == before


BAD = {
    "a name of capitals": Job("Run", COMMAND),
    "a name too long": Job("r" * (LONGEST_NAME + 1), COMMAND),
    "a word for a shell": Job("a", ("tunefleet", "train", "$(id)")),
    "a file that leads elsewhere": Job("a", COMMAND, {"../run.yaml": ""}),
    "too much": Job("a", COMMAND, {"run.yaml": "x" * 1_000_000}),
}


@pytest.mark.parametrize("job", BAD.values(), ids=BAD.keys())
def test_what_kubernetes_would_not_take_is_refused(job):
    with pytest.raises(SettingsError):
        job_manifests(OVERLAYS["base"], job)


@pytest.mark.parametrize("line", ["path: https://me:sesame@host/rows", "token: hf_abcdefghijklmnopqrst", "aws_secret_access_key: sesame"])
def test_a_file_with_a_secret_is_refused_and_the_secret_not_shown(line):
    with pytest.raises(SettingsError) as refused:
        job_manifests(OVERLAYS["base"], Job("a", COMMAND, {"run.yaml": f"name: a\n{line}\n"}))
    assert "***" in str(refused.value)
    assert "sesame" not in str(refused.value)
    assert "abcdefghijklmnop" not in str(refused.value)


def test_every_problem_is_said_at_once():
    with pytest.raises(Refusal) as refused:
        job_manifests(OVERLAYS["dev"], Job("A", ("$x",), {"/": ""}, workers=Workers(1, gpu=True)))
    assert len(refused.value.problems) == 4


def test_an_overlay_without_a_cluster_is_refused():
    with pytest.raises(SettingsError, match="one RayCluster"):
        job_manifests([document for document in OVERLAYS["base"] if document["kind"] != "RayCluster"], JOB)


@pytest.mark.parametrize("title", ["GSM8K LoRA (8B)", "8b", "---", "x" * 100, "größer", "a_b"])
def test_any_title_gives_a_name(title):
    assert refusals({"kind": "RayJob", "metadata": {"name": job_name(title, "ab12cd")}, "spec": {"entrypoint": "x", "clusterSelector": {"a": "b"}}}) == []


def test_what_belongs_to_the_job_goes_with_it():
    [job, files, *_] = job_manifests(OVERLAYS["base"], JOB)
    [owner] = owned_by(files, job, "123")["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "gsm8k-ab12", "uid": "123"}
    assert problems(owned_by(files, job, "123")) == []


def write(folder, text=RUN, name="run.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def job_from(path, settings=(), **given):
    return job_of(parcel_of(str(path), dict(settings), here=False, shared=()), "ab12cd", **given)


def test_a_run_file_goes_with_the_settings_of_the_command_line(tmp_path):
    job = job_from(write(tmp_path), {"training.max_steps": "7", "scaling.num_workers": "3"})
    assert job.name == "gsm8k-lora-ab12cd"
    assert job.command == COMMAND
    assert job.workers == Workers(3)
    assert yaml.safe_load(job.files["run.yaml"])["training"]["max_steps"] == 7


def test_a_study_file_carries_its_run_and_gets_pods_for_all_its_trials(tmp_path):
    write(tmp_path)
    text = f"""\
run: {tmp_path}/run.yaml
space: {{training.learning_rate: {{choice: [1.0e-4, 1.0e-3]}}}}
searcher: {{kind: random, trials: 4}}
budget: {{concurrent_trials: 2}}
output: s3://bucket/studies/a
"""
    job = job_from(write(tmp_path, text, "sweep.yaml"), {"budget.concurrent_trials": "3"})
    assert job.command[:3] == ("tunefleet", "tune", "study.yaml")
    assert yaml.safe_load(job.files["study.yaml"])["run"]["name"] == "GSM8K LoRA"
    assert job.workers == Workers(6)


def test_a_study_of_no_given_breadth_is_refused_since_its_cluster_is_made_for_it(tmp_path):
    text = f"run: {write(tmp_path)}\nspace: {{training.learning_rate: {{choice: [1.0e-4, 1.0e-3]}}}}\noutput: s3://bucket/studies/a\n"
    with pytest.raises(SettingsError, match=r"budget\.concurrent_trials: is not set"):
        job_from(write(tmp_path, text, "sweep.yaml"))


def test_a_module_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be shipped"):
        job_of(Parcel("a", "run", "s3://b/a", COMMAND[1:], {"run.yaml": RUN.encode(), "mine.py": "# ä".encode("latin-1")}), "ab12cd")


def test_what_a_studys_run_stands_on_is_on_every_pod():
    rendered = job_manifests(OVERLAYS["fleet"], Job("a", ("tunefleet", "tune", "study.yaml"), {"study.yaml": "", "base-1.yaml": ""}))
    spec, head = parts(rendered)
    for pod in (head, *(group["template"] for group in spec["workerGroupSpecs"])):
        assert [volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume] == ["a"]
        assert "PYTHONPATH" not in {variable["name"] for variable in pod["spec"]["containers"][0]["env"]}


def test_modules_reach_every_pod_under_their_own_names():
    rendered = job_manifests(OVERLAYS["fleet"], Job("a", COMMAND, {"run.yaml": "", "mylab/__init__.py": "", "mylab/kto.py": "x = 1\n"}))
    spec, head = parts(rendered)
    assert all(problems(manifest) == [] for manifest in rendered[1:])
    for pod in (head, *(group["template"] for group in spec["workerGroupSpecs"])):
        [volume] = [volume for volume in pod["spec"]["volumes"] if "configMap" in volume]
        assert {item["path"]: rendered[1]["data"][item["key"]] for item in volume["configMap"]["items"]}["mylab/kto.py"] == "x = 1\n"
        assert {"name": "PYTHONPATH", "value": MOUNT} in pod["spec"]["containers"][0]["env"]


def test_a_folder_of_every_pod_counts_as_shared():
    assert shared_folders(OVERLAYS["dev"]) == ["/shared"]
    assert shared_folders(OVERLAYS["fleet"]) == []


def test_the_example_is_what_its_run_becomes():
    run = str(PROJECT / "k8s" / "examples" / "run.yaml")
    rendered = job_manifests(OVERLAYS["kueue"], job_of(parcel_of(run, {}, here=False, shared=()), "example"))
    kept = list(yaml.safe_load_all((PROJECT / "k8s" / "examples" / "rayjob.yaml").read_text()))
    now, then = (RunFile.model_validate(yaml.safe_load(manifests[1]["data"].pop("run.yaml"))) for manifests in (rendered, kept))
    assert then == now  # settings that came later have their defaults
    assert kept == rendered


def options(subject, *words):
    """What the command line makes of these words."""
    return parser_of("submit", VERB, "").parse_args([subject, "--kubernetes", *words])


def test_paths_of_this_machine_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="does not see this machine's files"):
        submit(options(write(tmp_path, RUN.replace("s3://bucket/rows.jsonl", str(tmp_path / "rows.jsonl"))), "--dry-run"), {})


@pytest.mark.parametrize("words", [["--overwrite"], ["--address", "http://x:8265"], ["--follow"], ["--spot-head"]], ids=lambda words: words[0])
def test_options_of_a_cluster_that_runs_already_are_refused(tmp_path, words):
    with pytest.raises(SettingsError, match=f"{words[0]}: not with --kubernetes"):
        submit(options(write(tmp_path), *words), {})


def test_a_wrong_run_file_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(SettingsError):
        submit(options(write(tmp_path, RUN.replace("max_steps", "max_step"))), {})


def test_a_dry_run_prints_what_would_be_applied(tmp_path, capsys):
    assert submit(options(write(tmp_path), "--dry-run"), {}) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [manifest["kind"] for manifest in printed] == ["RayJob", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy", "NetworkPolicy"]
    assert {manifest["metadata"]["namespace"] for manifest in printed} == {"tunefleet"}
    assert refusals(printed[0]) == []


def test_an_overlay_may_be_a_file_of_manifests(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump_all(OVERLAYS["fleet"]))
    assert overlay(str(path)) == OVERLAYS["fleet"]


@pytest.mark.parametrize("text", ["a: [", "just words", "- a\n"])
def test_what_is_no_overlay_is_refused(text, tmp_path):
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match="--overlay"):
        overlay(str(path))
    with pytest.raises(SettingsError, match="none is there"):
        overlay(str(tmp_path))


KUBECTL = """\
#!/bin/sh
cat > "$LOG.$(ls "$LOG".* 2>/dev/null | wc -l)"
case "$*" in *json*) echo '{"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "n", "uid": "u-1"}}' ;; esac
exit "$CODE"
"""


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A kubectl that keeps what it is given, since there is no Kubernetes here."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL)
    program.chmod(0o755)
    for key, value in {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "CODE": "0"}.items():
        monkeypatch.setenv(key, value)
    return tmp_path


def test_the_job_is_made_first_and_owns_the_rest(kubectl, capsys):
    assert submit(options(write(kubectl)), {}) == 0
    first, second = ([*yaml.safe_load_all((kubectl / f"log.{i}").read_text())] for i in range(2))
    assert [manifest["kind"] for manifest in first] == ["RayJob"]
    assert {manifest["metadata"]["ownerReferences"][0]["uid"] for manifest in second} == {"u-1"}
    assert {"ConfigMap", "NetworkPolicy"} <= {manifest["kind"] for manifest in second}
    name = first[0]["metadata"]["name"]
    out, err = capsys.readouterr()
    assert out.strip() == name
    assert f"kubectl -n tunefleet logs -f job/{name}" in err
    assert f'kubectl -n tunefleet patch rayjob {name} --type merge -p \'{{"spec":{{"backoffLimit":0}}}}\' && tunefleet stop s3://bucket/runs/a' in err
    assert f"kubectl -n tunefleet delete rayjob {name}" in err


def test_a_run_whose_output_lies_in_the_cluster_is_stopped_from_inside():
    [_, stop, _] = afterwards("a-1", "tunefleet", "/shared/runs/a")
    assert f'exec "$(kubectl -n tunefleet get pod -l {OWNER}=a-1,ray.io/node-type=head -o name)" -- tunefleet stop /shared/runs/a' in stop


def test_what_kubectl_says_is_handed_on(kubectl, monkeypatch):
    monkeypatch.setenv("CODE", "3")
    with pytest.raises(TunefleetError, match="kubectl create failed"):
        submit(options(write(kubectl)), {})


def test_without_kubectl_there_is_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError, match="kubectl is missing"):
        submit(options(write(tmp_path)), {})
