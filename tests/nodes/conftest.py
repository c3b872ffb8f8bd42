"""Tests on several hosts: skipped, saying why, where those cannot be made."""

import pytest
from hosts import missing


@pytest.fixture(autouse=True)
def _hosts_can_be_made():
    if why := missing():
        pytest.skip(why)
