"""k8s/: every overlay strictly valid for Kubernetes and for the operator, planted typos caught, and what every pod must and must not have."""

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from kuberay import refusals
from kustomize import render
from manifests import PROJECT, SCHEMAS, documents, problems
from networkpolicies import Peer, allowed, selects

OVERLAYS = {name: render(PROJECT / "k8s" / path) for name, path in {"base": "base", **{n: f"overlays/{n}" for n in ("dev", "fleet", "kueue")}}.items()}
EVERY = [pytest.param(document, id=f"{name}-{document['kind']}-{document['metadata']['name']}") for name, found in OVERLAYS.items() for document in found]


def of_kind(overlay, kind):
    return [document for document in OVERLAYS[overlay] if document["kind"] == kind]


def cluster(overlay):
    [found] = of_kind(overlay, "RayCluster")
    return found


def groups(overlay):
    spec = cluster(overlay)["spec"]
    return [("head", spec["headGroupSpec"]), *((group["groupName"], group) for group in spec["workerGroupSpecs"])]


PODS = [pytest.param(group["template"]["spec"], id=f"{overlay}-{name}") for overlay in OVERLAYS for name, group in groups(overlay)]
PODS += [pytest.param(document["spec"]["template"]["spec"], id=document["metadata"]["name"]) for document in of_kind("fleet", "StatefulSet")]

needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason="KubeRay's schemas are not beside the project (../shared/kuberay)")


@pytest.mark.parametrize("manifest", EVERY)
def test_every_manifest_is_strictly_valid(manifest):
    if manifest["apiVersion"].startswith("ray.io/") and not SCHEMAS.is_dir():
        pytest.skip("KubeRay's schemas are not beside the project (../shared/kuberay)")
    assert problems(manifest) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_operator_takes_the_cluster(overlay):
    assert refusals(cluster(overlay)) == []


def planted(manifest, place, value):
    """A copy with one value changed, or removed where it is None."""
    broken = copy.deepcopy(manifest)
    *way, last = place.split("/")
    target = broken
    for step in way:
        target = target[int(step) if isinstance(target, list) else step]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return broken


TYPOS = {
    "an unknown name in a container": ("spec/headGroupSpec/template/spec/containers/0/resource", {}),
    "an unknown name in a group": ("spec/workerGroupSpecs/0/maxReplica", 8),
    "an unknown name in the cluster": ("spec/authOption", {"mode": "token"}),
    "an unknown name in the autoscaler's options": ("spec/autoscalerOptions/idleTimeoutSecond", 60),
    "a value that is none of the choices": ("spec/authOptions/mode", "tokens"),
    "a number where a text stands": ("spec/headGroupSpec/rayStartParams/num-cpus", 0),
    "a text where a number stands": ("spec/workerGroupSpecs/0/maxReplicas", "8"),
    "an amount that is no amount": ("spec/workerGroupSpecs/0/template/spec/volumes/0/emptyDir/sizeLimit", "16 gigabytes"),
    "a group without its name": ("spec/workerGroupSpecs/0/groupName", None),
}


@needs_schemas
@pytest.mark.parametrize(("place", "value"), TYPOS.values(), ids=TYPOS.keys())
def test_a_typo_in_the_cluster_is_caught(place, value):
    assert len(problems(planted(cluster("base"), place, value))) == 1


CORE_TYPOS = {
    "NetworkPolicy": ("base", "spec/policyType", ["Ingress"]),
    "ServiceAccount": ("base", "automountServiceAccountTokens", False),
    "PodDisruptionBudget": ("base", "spec/minAvailible", 1),
    "Namespace": ("base", "metadata/label", {}),
    "PersistentVolumeClaim": ("dev", "spec/accessMode", ["ReadWriteMany"]),
    "StatefulSet": ("fleet", "spec/template/spec/containers/0/volumeMount", []),
    "Service": ("fleet", "spec/port", []),
    "ClusterQueue": ("kueue", "spec/resourceGroups/0/flavor", []),
    "LocalQueue": ("kueue", "spec/clusterQueues", "tunefleet"),
    "ResourceFlavor": ("kueue", "spec", {"nodeLabel": {}}),
}


@pytest.mark.parametrize(("kind", "typo"), CORE_TYPOS.items(), ids=CORE_TYPOS.keys())
def test_a_typo_in_another_kind_is_caught(kind, typo):
    overlay, place, value = typo
    assert problems(planted(of_kind(overlay, kind)[0], place, value))


def test_every_kind_but_the_operators_has_its_typo():
    assert CORE_TYPOS.keys() == {document["kind"] for found in OVERLAYS.values() for document in found} - {"RayCluster"}


REFUSED = {
    "a name too long": ("metadata/name", "t" * 54),
    "a name that begins with a digit": ("metadata/name", "8b"),
    "no version": ("spec/rayVersion", None),
    "a version without tokens": ("spec/rayVersion", "2.51.0"),
    "a head that restarts in place": ("spec/headGroupSpec/template/spec/restartPolicy", "Always"),
    "a worker that restarts in place": ("spec/workerGroupSpecs/0/template/spec/restartPolicy", "OnFailure"),
    "a priority for autoscaler v1": ("spec/autoscalerOptions/version", "v1"),
    "labels among the parameters": ("spec/headGroupSpec/rayStartParams/labels", "a=b"),
    "resources in two places": ("spec/headGroupSpec/resources", {"CPU": "1"}),
    "a label of signs": ("spec/workerGroupSpecs/0/labels", {"ray.io/market-type": "on demand"}),
    "fewer at most than at least": ("spec/workerGroupSpecs/0/minReplicas", 9),
    "a policy of the operator's": ("spec/networkPolicy", {"mode": "DenyAll"}),
    "TLS of the operator's": ("spec/tlsOptions", {"enabled": True}),
    "Redis by a variable too": ("spec/headGroupSpec/template/spec/containers/0/env", [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]),
    "a password among the parameters": ("spec/headGroupSpec/rayStartParams/redis-password", "x"),
    "a disk for Redis": ("spec/gcsFaultToleranceOptions/storage", {"size": "1Gi"}),
    "another backend": ("spec/gcsFaultToleranceOptions/backend", "rocksdb"),
    "an annotation beside the options": ("metadata/annotations", {"ray.io/ft-enabled": "true"}),
    "a group that is suspended": ("spec/workerGroupSpecs/0/suspend", True),
}


@pytest.mark.parametrize(("place", "value"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_operator_refuses_is_caught(place, value):
    assert refusals(planted(cluster("fleet"), place, value))


def test_the_autoscalers_limits_are_wanted_without_it():
    assert refusals(planted(cluster("kueue"), "spec/workerGroupSpecs/0/maxReplicas", None))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_the_same(overlay):
    version = json.loads(subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True).stdout)
    if not version.get("kustomizeVersion", "").startswith("v5"):
        pytest.skip(f"this kubectl has kustomize {version.get('kustomizeVersion', 'older than 5')}")
    folder = PROJECT / "k8s" / ("base" if overlay == "base" else f"overlays/{overlay}")
    rendered = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    assert by_name(yaml.load_all(rendered, yaml.CSafeLoader)) == by_name(OVERLAYS[overlay])


def by_name(found):
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def test_kustomizations_name_every_file():
    for path in (PROJECT / "k8s").glob("**/kustomization.yaml"):
        settings = documents(path)[0]
        named = {*settings.get("resources", []), *(patch["path"] for patch in settings.get("patches", []) if "path" in patch)}
        assert {other.name for other in path.parent.glob("*.yaml")} - {path.name} == {name for name in named if name.endswith(".yaml")}


def test_versions_are_those_of_the_project():
    ray = re.search(r"^ray==(.+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE).group(1)
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    for overlay in OVERLAYS:
        assert cluster(overlay)["spec"]["rayVersion"] == ray
        images = {container["image"] for _, group in groups(overlay) for container in group["template"]["spec"]["containers"]}
        assert images == {f"tunefleet:{version}{'-cpu' if overlay == 'dev' else ''}"}


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestEveryCluster:
    def test_asks_for_a_token(self, overlay):
        assert cluster(overlay)["spec"]["authOptions"] == {"mode": "token"}

    def test_has_a_head_on_demand_without_work_and_its_dashboard_on_loopback(self, overlay):
        head = cluster(overlay)["spec"]["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        assert head["rayStartParams"]["dashboard-host"] == "127.0.0.1"
        assert head["serviceType"] == "ClusterIP"
        assert head["labels"] == {"ray.io/market-type": "on-demand"}
        assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert not any(fits(head["template"]["spec"], labels) for labels in SPOT.values())

    def test_starts_from_zero(self, overlay):
        for _, group in groups(overlay)[1:]:
            assert (group["replicas"], group["minReplicas"]) == (0, 0)
            assert group["maxReplicas"] > 0

    def test_gives_the_accounts_token_to_the_autoscaler_alone(self, overlay):
        spec = cluster(overlay)["spec"]
        for _, group in groups(overlay):
            pod = group["template"]["spec"]
            assert pod["automountServiceAccountToken"] is False
            tokens = {volume["name"] for volume in pod["volumes"] if "serviceAccountToken" in json.dumps(volume)}
            assert not any(mount["name"] in tokens for container in pod["containers"] for mount in container["volumeMounts"])
        if spec["enableInTreeAutoscaling"]:
            options = spec["autoscalerOptions"]
            assert options["version"] == "v2"
            assert options["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"/tmp", "/var/run/secrets/kubernetes.io/serviceaccount"} == {mount["mountPath"] for mount in options["volumeMounts"]}
            assert {mount["name"] for mount in options["volumeMounts"]} <= {volume["name"] for volume in spec["headGroupSpec"]["template"]["spec"]["volumes"]}
            assert options["resources"]["limits"] == options["resources"]["requests"]

    def test_has_a_head_that_no_drain_of_a_node_ends(self, overlay):
        [budget] = of_kind(overlay, "PodDisruptionBudget")
        assert budget["spec"]["minAvailable"] == 1
        assert [selects(budget["spec"]["selector"], pod_labels(overlay, name)) for name, _ in groups(overlay)] == [True] + [False] * (len(groups(overlay)) - 1)

    def test_has_accounts_without_rights(self, overlay):
        assert {document["kind"] for document in OVERLAYS[overlay]}.isdisjoint({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})
        accounts = {document["metadata"]["name"] for document in of_kind(overlay, "ServiceAccount") if document["automountServiceAccountToken"] is False}
        assert {group["template"]["spec"]["serviceAccountName"] for _, group in groups(overlay)} == accounts

    def test_holds_no_secret(self, overlay):
        assert not of_kind(overlay, "Secret")
        for _, group in groups(overlay):
            for container in group["template"]["spec"]["containers"]:
                assert {entry["value"] for entry in container["env"]} == {"/home/ray", "0"}


def pod_labels(overlay, name):
    group = dict(groups(overlay))[name]
    kind = "head" if name == "head" else "worker"
    return {**group["template"]["metadata"]["labels"], "ray.io/node-type": kind, "ray.io/cluster": cluster(overlay)["metadata"]["name"]}


@pytest.mark.parametrize("pod", PODS)
class TestEveryPod:
    def test_runs_without_rights(self, pod):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

    def test_has_limits_equal_to_what_it_asks_for(self, pod):
        for container in pod["containers"]:
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
            assert container["resources"]["limits"] == container["resources"]["requests"]

    def test_mounts_volumes_that_exist(self, pod):
        claims = {document["metadata"]["name"] for document in of_kind("dev", "PersistentVolumeClaim")}
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} - {"data"}
        assert mounted | {"autoscaler", "kubernetes"} >= volumes.keys() >= mounted
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "persistentVolumeClaim" in volume} <= claims

    def test_can_write_where_it_must_and_no_more_than_it_may(self, pod):
        container = pod["containers"][0]
        if container["name"] == "redis":
            assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/data"]
            return
        places = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"/dev/shm", "/tmp", "/home/ray"} <= places.keys()
        volumes = {volume["name"]: volume.get("emptyDir") for volume in pod["volumes"]}
        shm = volumes[places["/dev/shm"]]
        assert shm["medium"] == "Memory"
        limits = container["resources"]["limits"]
        assert gibibytes(shm["sizeLimit"]) <= gibibytes(limits["memory"]) / 2
        assert all(gibibytes(folder["sizeLimit"]) <= gibibytes(limits["ephemeral-storage"]) * 4 for folder in volumes.values() if folder)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_object_store_fits_its_memory(overlay):
    for _, group in groups(overlay):
        shm = next(volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "shm")
        assert int(group["rayStartParams"]["object-store-memory"]) <= gibibytes(shm["emptyDir"]["sizeLimit"]) * 2**30 / 2  # gloo and NCCL want the rest


def gibibytes(text):
    return float(text[:-2]) / {"Gi": 1, "Mi": 1024}[text[-2:]]


SPOT = {
    "gke": {"cloud.google.com/gke-spot": "true"},
    "aks": {"kubernetes.azure.com/scalesetpriority": "spot"},
    "eks": {"eks.amazonaws.com/capacityType": "SPOT"},
    "karpenter": {"karpenter.sh/capacity-type": "spot"},
}
TAINTS = {"gke": ("cloud.google.com/gke-spot", "true"), "aks": ("kubernetes.azure.com/scalesetpriority", "spot"), "yours": ("tunefleet/spot", "any")}


def fits(pod, labels):
    """Whether a pod's affinity takes a node with these labels: one of its terms does."""
    affinity = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    return affinity is None or any(selects(term, labels) for term in affinity["nodeSelectorTerms"])


@pytest.mark.parametrize("overlay", ["fleet", "kueue"])
class TestSpot:
    def test_nodes_are_taken_by_the_spot_group_alone(self, overlay):
        for cloud, labels in SPOT.items():
            assert [name for name, group in groups(overlay)[2:] if fits(group["template"]["spec"], labels)] == ["gpu-spot"], cloud

    def test_nodes_on_demand_are_taken_by_the_other_groups(self, overlay):
        assert [name for name, group in groups(overlay) if fits(group["template"]["spec"], {"karpenter.sh/capacity-type": "on-demand"})] == [
            "head",
            "cpu",
            "gpu-on-demand",
        ]

    def test_taints_are_tolerated_by_the_spot_group_alone(self, overlay):
        for key, value in TAINTS.values():
            pods = {name: group["template"]["spec"].get("tolerations", []) for name, group in groups(overlay)}
            tolerant = [name for name, entries in pods.items() if any(tolerates(entry, key, value) for entry in entries)]
            assert tolerant == ["gpu-spot"]

    def test_rays_labels_say_which_is_which(self, overlay):
        assert {name: group["labels"]["ray.io/market-type"] for name, group in groups(overlay)} == {
            "head": "on-demand",
            "cpu": "on-demand",
            "gpu-on-demand": "on-demand",
            "gpu-spot": "spot",
        }


def tolerates(toleration, key, value):
    return toleration["key"] == key and (toleration["operator"] == "Exists" or toleration["value"] == value) and toleration["effect"] == "NoSchedule"


def test_spot_comes_first():
    priorities = {name: group.get("priority", 0) for name, group in groups("fleet")[1:]}
    assert max(priorities, key=priorities.get) == "gpu-spot"


def test_what_waits_in_a_queue_holds_nothing():
    spec = cluster("kueue")["spec"]
    assert spec["suspend"] is True
    assert spec["enableInTreeAutoscaling"] is False
    [local] = of_kind("kueue", "LocalQueue")
    [queue] = of_kind("kueue", "ClusterQueue")
    assert cluster("kueue")["metadata"]["annotations"]["tunefleet/queue"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    [quota] = queue["spec"]["resourceGroups"]
    assert {resource["name"] for flavor in quota["flavors"] for resource in flavor["resources"]} == set(quota["coveredResources"])
    for _, group in groups("kueue"):
        assert group["template"]["spec"]["containers"][0]["resources"]["limits"].keys() <= set(quota["coveredResources"])


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_asks_for_the_password_and_shows_it_to_no_list_of_processes(tmp_path):
    [container] = of_kind("fleet", "StatefulSet")[0]["spec"]["template"]["spec"]["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = [word.replace("/data", str(tmp_path)).replace("redis-server -", f"redis-server - --bind 127.0.0.1 --port {port}") for word in container["command"]]
    server = subprocess.Popen(here, env={**os.environ, "REDIS_PASSWORD": "sesame"}, stdout=subprocess.PIPE, text=True)
    try:
        assert any("eady to accept connections" in line for line in server.stdout)
        ways = ([], ["--no-auth-warning", "-a", "sesame"])
        answers = [subprocess.run(["redis-cli", "-p", port, *way, "ping"], capture_output=True, text=True, timeout=60).stdout for way in ways]
        assert "NOAUTH" in answers[0]
        assert answers[1].strip() == "PONG"
        assert "sesame" not in Path(f"/proc/{server.pid}/cmdline").read_text()
    finally:
        server.terminate()
        assert server.wait(30) == 0  # it is the container's first process, and saves when it is asked to end


HEAD = Peer(pod_labels("fleet", "head"))
WORKER = Peer(pod_labels("fleet", "gpu-spot"))
REDIS = Peer({"tunefleet/role": "redis"})
OTHER_CLUSTER = Peer({**WORKER.labels, "tunefleet/cluster": "another"})
STRANGER = Peer({"app": "shop"})
OPERATOR = Peer({"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay-system")
IMPOSTOR = Peer({"app.kubernetes.io/name": "kuberay-operator"}, namespace="default")
DNS = Peer({"k8s-app": "kube-dns"}, namespace="kube-system")
STORE, METADATA = Peer(address="52.216.1.1"), Peer(address="169.254.169.254")
OPEN = [(HEAD, WORKER, 6379), (WORKER, HEAD, 6379), (WORKER, WORKER, 31000), (HEAD, REDIS, 6379), (OPERATOR, HEAD, 8265), (HEAD, DNS, 53), (WORKER, DNS, 53)]
OPEN += [(WORKER, STORE, 443), (HEAD, STORE, 443), (HEAD, Peer(address="10.0.0.1"), 6443)]
CLOSED = [(STRANGER, HEAD, 8265), (STRANGER, HEAD, 6379), (IMPOSTOR, HEAD, 8265), (OPERATOR, WORKER, 8265), (OPERATOR, HEAD, 6379), (OTHER_CLUSTER, HEAD, 6379)]
CLOSED += [(WORKER, OTHER_CLUSTER, 31000), (WORKER, REDIS, 6379), (STRANGER, REDIS, 6379), (REDIS, STORE, 443), (REDIS, HEAD, 6379), (WORKER, STORE, 80)]
CLOSED += [(WORKER, METADATA, 80), (HEAD, METADATA, 443), (WORKER, Peer(address="10.0.0.1"), 6443), (Peer(namespace="default"), HEAD, 8080)]


@pytest.mark.parametrize("connection", OPEN)
def test_what_is_needed_is_open(connection):
    assert allowed(of_kind("fleet", "NetworkPolicy"), *connection)


@pytest.mark.parametrize("connection", CLOSED)
def test_everything_else_is_closed(connection):
    assert not allowed(of_kind("fleet", "NetworkPolicy"), *connection)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_denies_by_default(overlay):
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not allowed(of_kind(overlay, "NetworkPolicy"), STRANGER, Peer(pod_labels(overlay, "head")), 8265)
