"""One Ray session for all Ray tests."""

import os
import uuid
from pathlib import Path

import pytest
from s3server import CANARY

from tunefleet.cluster.session import connect

TESTS = Path(__file__).parents[1]
SECRETS = ("A_PASSWORD_OF_MINE", "SOME_API_KEY")
"""Variables of the environment that hold a canary: what is left behind is searched for it."""


@pytest.fixture(scope="session")
def ray_mark():
    """Stands in the environment of every process of the session, so that they can be told from those of others."""
    os.environ["TUNEFLEET_TEST_SESSION"] = mark = uuid.uuid4().hex
    os.environ.update({name: f"{CANARY}-{name}" for name in SECRETS})
    return mark


@pytest.fixture(scope="session")
def ray_session(ray_mark):
    """A local Ray with 4 logical CPUs, whose workers can import what lies in tests/."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    with connect(cpus_needed=4) as session:
        yield session
