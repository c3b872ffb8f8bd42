"""k8s/: strictly valid for the operator, and what every pod must and must not have."""

import copy
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from manifests import PROJECT, SCHEMAS, documents, problems

BASE = PROJECT / "k8s" / "base"
KUSTOMIZATION = documents(BASE / "kustomization.yaml")[0]
MANIFESTS = [document for path in sorted(BASE.glob("*.yaml")) if path.name != "kustomization.yaml" for document in documents(path)]
CLUSTER = next(document for document in MANIFESTS if document["kind"] == "RayCluster")
HEAD = CLUSTER["spec"]["headGroupSpec"]
WORKERS = CLUSTER["spec"]["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (HEAD, *WORKERS)]

needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason="KubeRay's schemas are not beside the project (../shared/kuberay)")


@needs_schemas
def test_the_cluster_is_strictly_valid():
    assert problems(CLUSTER) == []


TYPOS = {
    "an unknown name in a container": ("headGroupSpec/template/spec/containers/0/resource", {}),
    "an unknown name in a group": ("workerGroupSpecs/0/maxReplica", 8),
    "an unknown name in the cluster": ("authOption", {"mode": "token"}),
    "a value that is none of the choices": ("authOptions/mode", "tokens"),
    "a number where a text stands": ("headGroupSpec/rayStartParams/num-cpus", 0),
    "a text where a number stands": ("workerGroupSpecs/0/maxReplicas", "8"),
    "an amount that is no amount": ("workerGroupSpecs/0/template/spec/volumes/0/emptyDir/sizeLimit", "16 gigabytes"),
    "a group without its name": ("workerGroupSpecs/0/groupName", None),
}


@needs_schemas
@pytest.mark.parametrize(("place", "value"), TYPOS.values(), ids=TYPOS.keys())
def test_a_planted_typo_is_caught(place, value):
    broken = copy.deepcopy(CLUSTER)
    *way, last = place.split("/")
    target = broken["spec"]
    for step in way:
        target = target[int(step) if step.isdigit() else step]
    if value is None:
        del target[last]
    else:
        target[last] = value
    assert len(problems(broken)) == 1


def test_the_kustomization_names_every_file():
    assert sorted(KUSTOMIZATION["resources"]) == sorted(path.name for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")


def test_versions_are_those_of_the_project():
    ray = re.search(r"^ray==(.+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE).group(1)
    assert CLUSTER["spec"]["rayVersion"] == ray
    assert KUSTOMIZATION["images"][0]["newTag"] == tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]


def test_the_cluster_asks_for_a_token():
    assert CLUSTER["spec"]["authOptions"]["mode"] == "token"
    major, minor, _ = map(int, CLUSTER["spec"]["rayVersion"].split("."))
    assert (major, minor) >= (2, 52), "the operator refuses token authentication below"


def test_the_head_takes_no_work_and_shows_its_dashboard_on_loopback():
    assert HEAD["rayStartParams"] == {"num-cpus": "0", "dashboard-host": "127.0.0.1"}
    assert HEAD["serviceType"] == "ClusterIP"
    assert not any("gpu" in name for name in PODS[0]["containers"][0]["resources"]["limits"])


def test_no_manifest_holds_a_secret():
    assert {document["kind"] for document in MANIFESTS}.isdisjoint({"Secret"})
    values = {entry["value"] for pod in PODS for container in pod["containers"] for entry in container["env"]}
    assert values == {"/home/ray", "0"}


@pytest.mark.parametrize("pod", PODS, ids=["head", *(group["groupName"] for group in WORKERS)])
class TestEveryPod:
    def test_runs_without_rights(self, pod):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

    def test_has_limits_equal_to_what_it_asks_for(self, pod):
        for container in pod["containers"]:
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
            assert container["resources"]["limits"] == container["resources"]["requests"]

    def test_has_shared_memory_within_its_memory(self, pod):
        shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")["emptyDir"]
        assert shm["medium"] == "Memory"
        assert gibibytes(shm["sizeLimit"]) <= gibibytes(pod["containers"][0]["resources"]["limits"]["memory"]) / 2
        assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]

    def test_mounts_volumes_that_exist(self, pod):
        claims = {document["metadata"]["name"] for document in MANIFESTS if document["kind"] == "PersistentVolumeClaim"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == volumes.keys()
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "persistentVolumeClaim" in volume} == claims


def gibibytes(text):
    assert text.endswith("Gi")
    return float(text[:-2])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_the_base():
    rendered = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=True).stdout
    kinds = {document["kind"]: document for document in yaml.load_all(rendered, yaml.CSafeLoader)}
    assert kinds.keys() == {document["kind"] for document in MANIFESTS}
    image = f"{KUSTOMIZATION['images'][0]['newName']}:{KUSTOMIZATION['images'][0]['newTag']}"
    groups = (kinds["RayCluster"]["spec"]["headGroupSpec"], *kinds["RayCluster"]["spec"]["workerGroupSpecs"])
    assert {container["image"] for group in groups for container in group["template"]["spec"]["containers"]} == {image}
