"""ray-cluster.yaml: what Ray's own check takes, what EC2 takes as a node, and what the fleet must be. No cloud is asked."""

import copy
import tomllib
from pathlib import Path

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).parents[3]
GIVEN = yaml.safe_load((PROJECT / "ray-cluster.yaml").read_text())
HEAD = GIVEN["available_node_types"][GIVEN["head_node_type"]]
WORKERS = {name: kind for name, kind in GIVEN["available_node_types"].items() if name != GIVEN["head_node_type"]}
FILLED_IN_BY_RAY = {"MinCount": 1, "MaxCount": 1}


@pytest.fixture(scope="session")
def run_instances():
    """What EC2 says that a request to run instances looks like; botocore ships it."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def node_problems(node_config, shape):
    """Unknown names, wrong types, and values that are none of the choices."""
    report = ParamValidator().validate(node_config | FILLED_IN_BY_RAY, shape)
    return ([report.generate_report()] if report.has_errors() else []) + list(unknown_choices(node_config, shape))


def unknown_choices(value, shape, place="node_config"):
    if shape.type_name == "structure":
        for name in value.keys() & shape.members.keys():
            yield from unknown_choices(value[name], shape.members[name], f"{place}.{name}")
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from unknown_choices(item, shape.member, f"{place}[{index}]")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{place}: {value} is none of EC2's choices"


def prepared(config):
    config = prepare_config(copy.deepcopy(config))
    validate_config(config)
    return config


def test_ray_takes_it():
    config = prepared(GIVEN)
    assert {kind["min_workers"] for kind in config["available_node_types"].values()} == {0}


def test_ray_refuses_an_unknown_name():
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        prepared(GIVEN | {"idle_timeout_minute": 10})


@pytest.mark.parametrize("name", GIVEN["available_node_types"])
def test_ec2_takes_every_node(name, run_instances):
    assert node_problems(GIVEN["available_node_types"][name]["node_config"], run_instances) == []


TYPOS = {
    "an unknown name": {"InstanceTyp": "g5.12xlarge"},
    "a machine that does not exist": {"InstanceType": "g5.13xlarge"},
    "a market that does not exist": {"InstanceMarketOptions": {"MarketType": "spott"}},
    "an unknown name further in": {"IamInstanceProfile": {"name": "tunefleet-worker"}},
    "a text where a number stands": {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "200"}}]},
}


@pytest.mark.parametrize("change", TYPOS.values(), ids=TYPOS.keys())
def test_a_planted_typo_in_a_node_is_caught(change, run_instances):
    assert len(node_problems(HEAD["node_config"] | change, run_instances)) == 1


def test_the_head_is_on_demand_and_takes_no_work():
    assert HEAD["resources"] == {"CPU": 0}
    assert HEAD["max_workers"] == 0
    assert "InstanceMarketOptions" not in HEAD["node_config"]
    assert all("--num-cpus=0" in command for command in starts("head"))


@pytest.mark.parametrize("worker", WORKERS.values(), ids=WORKERS.keys())
def test_workers_are_spot_have_gpus_and_scale_from_zero(worker):
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= GIVEN["max_workers"]
    assert worker["resources"]["GPU"] > 0
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


@pytest.mark.parametrize("name", GIVEN["available_node_types"])
def test_nodes_have_a_profile_instead_of_keys_and_ask_for_it_with_a_session(name):
    node = GIVEN["available_node_types"][name]["node_config"]
    assert node["IamInstanceProfile"]["Name"].startswith("tunefleet-")
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert all(mapping["Ebs"]["Encrypted"] for mapping in node["BlockDeviceMappings"])


def test_workers_do_not_have_the_rights_of_the_head():
    profiles = {worker["node_config"]["IamInstanceProfile"]["Name"] for worker in WORKERS.values()}
    assert HEAD["node_config"]["IamInstanceProfile"]["Name"] not in profiles


def test_no_key_stands_in_the_file():
    text = (PROJECT / "ray-cluster.yaml").read_text()
    assert "AKIA" not in text
    assert "aws_secret_access_key" not in text.lower()
    assert "RAY_AUTH_TOKEN=" not in text


def starts(kind):
    return [command for command in GIVEN[f"{kind}_start_ray_commands"] if "ray start" in command]


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_every_node_starts_with_token_authentication(kind):
    assert len(starts(kind)) == 1
    assert "RAY_AUTH_MODE=token" in starts(kind)[0]
    assert "/home/ubuntu/.ray/auth_token" in GIVEN["file_mounts"]


def test_the_dashboard_listens_on_loopback():
    assert "--dashboard-host=127.0.0.1" in starts("head")[0]


def test_the_package_of_this_version_is_installed_with_the_constraints():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    install = next(command for command in GIVEN["setup_commands"] if "pip install" in command)
    assert f"dist/tunefleet-{version}-py3-none-any.whl" in install
    assert "-c ~/tunefleet/constraints.txt" in install


def test_only_the_package_the_constraints_and_the_token_leave_the_laptop():
    assert sorted(GIVEN["file_mounts"].values()) == ["constraints.txt", "dist", "~/.ray/auth_token"]
