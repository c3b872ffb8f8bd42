"""One browser for all tests that look at pages."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from browsers import Browser, browser, missing


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    """A headless browser. Where there is none the tests are skipped, unless TUNEFLEET_BROWSER=required says that there must be one, as CI does."""
    if lacking := missing():
        say = pytest.fail if os.environ.get("TUNEFLEET_BROWSER") == "required" else pytest.skip
        say(f"{lacking}: not on this machine (as root on Debian: make browser)")
    with browser() as made:
        yield made
