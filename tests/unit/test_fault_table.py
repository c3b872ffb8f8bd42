"""The table of faults names tests that there are, and says of a test whether it is one of the slow ones."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = [line for line in (TESTS / "faults" / "README.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_fault_has_a_row():
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 43))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_names_tests_that_there_are_or_says_that_it_is_not_built(row):
    named = NAMED.findall(row)
    assert bool(named) != ("not built" in row)
    slow = []
    for file, test in named:
        text = (TESTS.parent / file).read_text()
        assert f"def {test}(" in text, f"{file} has no {test}"
        slow.append("pytest.mark.slow" in text.partition("\n\n\n")[0] or f"@pytest.mark.slow\ndef {test}(" in text)
    assert any(slow) == ("(slow)" in row)
