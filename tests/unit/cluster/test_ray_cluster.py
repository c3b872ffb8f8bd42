"""ray-cluster.yaml and its sibling for Google: what Ray's own check takes, what the cloud takes as a node, and what the fleet must be. No cloud is asked."""

import copy
import re
import subprocess
import tomllib

import jsonschema
import pytest
import yaml
from manifests import PROJECT
from nodeconfigs import ec2_problems, gce_problems
from ray.autoscaler._private.util import prepare_config, validate_config

PATHS = {"aws": PROJECT / "ray-cluster.yaml", "gcp": PROJECT / "examples" / "clouds" / "gcp.yaml"}
FLEETS = {cloud: yaml.safe_load(path.read_text()) for cloud, path in PATHS.items()}
PROBLEMS = {"aws": ec2_problems, "gcp": gce_problems}
NODES = [pytest.param(cloud, name, id=f"{cloud}-{name}") for cloud, fleet in FLEETS.items() for name in fleet["available_node_types"]]
WORKERS = [node for node in NODES if not node.id.endswith("-head")]
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
MARKET = "ray.io/market-type"


def kind(cloud, name):
    return FLEETS[cloud]["available_node_types"][name]


def is_spot(cloud, name):
    node = kind(cloud, name)["node_config"]
    if cloud == "aws":
        return node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return node.get("scheduling", {}).get("provisioningModel") == "SPOT"


def prepared(fleet):
    fleet = prepare_config(copy.deepcopy(fleet))
    validate_config(fleet)
    return fleet


def setup(cloud):
    return next(command for command in FLEETS[cloud]["setup_commands"] if "pip install" in command)


@pytest.mark.parametrize("cloud", FLEETS)
def test_ray_takes_it(cloud):
    fleet = prepared(FLEETS[cloud])
    assert {node["min_workers"] for node in fleet["available_node_types"].values()} == {0}


@pytest.mark.parametrize("cloud", FLEETS)
@pytest.mark.parametrize("name", ["idle_timeout_minute", "available_node_type", "file_mount"])
def test_ray_refuses_an_unknown_name(cloud, name):
    with pytest.raises(jsonschema.ValidationError, match=name):
        prepared(FLEETS[cloud] | {name: {}})


@pytest.mark.parametrize("cloud", FLEETS)
def test_ray_refuses_an_unknown_name_of_a_node_type(cloud):
    types = copy.deepcopy(FLEETS[cloud]["available_node_types"])
    types["a100"]["label"] = {MARKET: "spot"}
    with pytest.raises(jsonschema.ValidationError, match="label"):
        prepared(FLEETS[cloud] | {"available_node_types": types})


@pytest.mark.parametrize(("cloud", "name"), NODES)
def test_the_cloud_takes_every_node(cloud, name):
    assert PROBLEMS[cloud](kind(cloud, name)["node_config"]) == []


TYPOS = {
    "aws: an unknown name": {"InstanceTyp": "p4d.24xlarge"},
    "aws: a machine that does not exist": {"InstanceType": "p4d.23xlarge"},
    "aws: a market that does not exist": {"InstanceMarketOptions": {"MarketType": "spott"}},
    "aws: an unknown name further in": {"IamInstanceProfile": {"name": "tunefleet-worker"}},
    "aws: a text where a number stands": {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "200"}}]},
    "aws: sessions that are no choice": {"MetadataOptions": {"HttpTokens": "require"}},
    "gcp: an unknown name": {"machineTypes": "n2-standard-8"},
    "gcp: a model that does not exist": {"scheduling": {"provisioningModel": "SPOTT"}},
    "gcp: a list where a mapping stands": {"scheduling": [{"preemptible": True}]},
    "gcp: an unknown name further in": {"disks": [{"initializeParams": {"diskSizeGB": 200}}]},
    "gcp: a text where a truth stands": {"disks": [{"boot": "true"}]},
    "gcp: a size that is no number": {"disks": [{"initializeParams": {"diskSizeGb": "200 GB"}}]},
    "gcp: one account instead of a list": {"serviceAccounts": {"email": "a@b"}},
    "gcp: what Google alone sets": {"status": "RUNNING"},
}


@pytest.mark.parametrize("name", TYPOS)
def test_a_planted_typo_in_a_node_is_caught(name):
    cloud = name[:3]
    assert len(PROBLEMS[cloud](kind(cloud, "head")["node_config"] | TYPOS[name])) == 1


def test_a_google_node_without_a_machine_is_caught():
    node = {key: value for key, value in kind("gcp", "head")["node_config"].items() if key != "machineType"}
    assert gce_problems(node) == ["node_config: no machineType"]


@pytest.mark.parametrize("cloud", FLEETS)
class TestEveryFleet:
    def test_has_an_on_demand_head_that_takes_no_work(self, cloud):
        head = kind(cloud, FLEETS[cloud]["head_node_type"])
        assert head["resources"] == {"CPU": 0}
        assert head["max_workers"] == 0
        assert head["labels"] == {MARKET: "on-demand"}
        assert not is_spot(cloud, "head")
        assert all("--num-cpus=0" in command for command in starts(cloud, "head"))

    def test_has_both_markets_of_both_classes_and_spot_goes_first(self, cloud):
        assert FLEETS[cloud]["available_node_types"].keys() == {"head", "a100-spot", "a100", "h100-spot", "h100"}
        for name in ("a100", "h100"):
            assert kind(cloud, f"{name}-spot").get("priority", 0) > kind(cloud, name).get("priority", 0)
            assert machine(cloud, f"{name}-spot") == machine(cloud, name)

    def test_starts_every_node_with_token_authentication(self, cloud):
        for part in ("head", "worker"):
            assert len(starts(cloud, part)) == 1
            assert "RAY_AUTH_MODE=token" in starts(cloud, part)[0]
        assert FLEETS[cloud]["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"

    def test_shows_its_dashboard_on_loopback(self, cloud):
        assert "--dashboard-host=127.0.0.1" in starts(cloud, "head")[0]

    def test_lets_only_the_package_the_pins_and_the_token_leave_the_laptop(self, cloud):
        assert sorted(FLEETS[cloud]["file_mounts"].values()) == ["dist", "k8s/images/locked.txt", "~/.ray/auth_token"]

    def test_names_files_that_are_there(self, cloud):
        assert (PROJECT / FLEETS[cloud]["file_mounts"]["/home/ubuntu/tunefleet/constraints.txt"]).is_file()

    def test_holds_no_key(self, cloud):
        text = PATHS[cloud].read_text()
        assert not re.search(r"AKIA|aws_secret_access_key|RAY_AUTH_TOKEN=|gcp_credentials|private_key|BEGIN ", text, re.IGNORECASE)

    def test_pins_what_it_installs(self, cloud):
        assert f"dist/tunefleet-{VERSION}-py3-none-any.whl" in setup(cloud)
        assert "-c constraints.txt" in setup(cloud)
        assert re.search(r"astral\.sh/uv/\d+\.\d+\.\d+/", setup(cloud))


@pytest.mark.parametrize(("cloud", "name"), WORKERS)
def test_workers_have_gpus_scale_from_zero_and_say_which_market_they_are_of(cloud, name):
    worker = kind(cloud, name)
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= FLEETS[cloud]["max_workers"]
    assert worker["resources"]["GPU"] == 8
    assert is_spot(cloud, name) == name.endswith("-spot")
    assert worker["labels"] == {MARKET: "spot" if is_spot(cloud, name) else "on-demand"}


@pytest.mark.parametrize("name", FLEETS["aws"]["available_node_types"])
def test_aws_nodes_have_a_profile_instead_of_keys_and_ask_for_it_with_a_session(name):
    node = kind("aws", name)["node_config"]
    assert node["IamInstanceProfile"]["Name"] == ("tunefleet-head" if name == "head" else "tunefleet-worker")
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert all(mapping["Ebs"]["Encrypted"] for mapping in node["BlockDeviceMappings"])


def test_on_aws_everything_is_on_s3():
    assert FLEETS["aws"]["initialization_commands"] == []
    assert "mount " not in yaml.safe_dump({key: FLEETS["aws"][key] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")})


def test_google_workers_do_not_have_the_rights_of_the_head():
    for _, name in (node.values for node in WORKERS if node.values[0] == "gcp"):
        [account] = kind("gcp", name)["node_config"]["serviceAccounts"]
        assert account["email"].startswith("tunefleet-worker@")
        assert "https://www.googleapis.com/auth/cloud-platform" not in account["scopes"]
    assert "serviceAccounts" not in kind("gcp", "head")["node_config"]  # Ray sets its own there


UV = """\
#!/bin/sh
echo "$@" >> {log}
case "$1" in venv) mkdir -p venv/bin;; esac
"""


@pytest.mark.parametrize("cloud", FLEETS)
def test_the_set_up_is_done_once_and_again_when_the_package_or_a_pin_changes(cloud, tmp_path):
    home, log = tmp_path / "home", tmp_path / "log"
    (home / ".local" / "bin").mkdir(parents=True)
    (home / "tunefleet" / "dist").mkdir(parents=True)
    wheel, pins = home / "tunefleet" / "dist" / f"tunefleet-{VERSION}-py3-none-any.whl", home / "tunefleet" / "constraints.txt"
    uv = home / ".local" / "bin" / "uv"
    uv.write_text(UV.format(log=log))
    uv.chmod(0o755)
    wheel.write_text("one")
    pins.write_text("ray==2.60.0")

    def installs():
        subprocess.run(["bash", "-c", setup(cloud)], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=True)
        return log.read_text().count("pip install")

    assert [installs(), installs()] == [1, 1]
    wheel.write_text("two")
    assert [installs(), installs()] == [2, 2]
    pins.write_text("ray==2.61.0")
    assert installs() == 3
    (home / "tunefleet" / "installed").unlink()
    uv.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        installs()


def starts(cloud, part):
    return [command for command in FLEETS[cloud][f"{part}_start_ray_commands"] if "ray start" in command]


def machine(cloud, name):
    return kind(cloud, name)["node_config"]["InstanceType" if cloud == "aws" else "machineType"]
