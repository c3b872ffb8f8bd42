"""The report of a store in a real browser: rows that hold markup stay text, and the page fits, asks for nothing and says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsers import Browser
from reports import EVIL
from tiny_tokenizers import tiny_tokenizer

from tunefleet.data.layout import ANSWERS
from tunefleet.data.prepare import prepare
from tunefleet.data.settings import Data

pytestmark = pytest.mark.browser


NAME = "<img src=x onerror=document.title='broken'>-a-file-with-a-long-name-that-has-no-place-to-break.jsonl"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with doubles, contradictions and very long words, some of them hostile, one that cannot be read, in a file whose name is markup."""
    folder = tmp_path_factory.mktemp("rows")
    readable = EVIL.replace("\x00", "")
    rows = [{"prompt": f"What is {i} plus three?", "completion": f"It is {i + 3}."} for i in range(60)]
    rows += [{"prompt": readable, "completion": answer} for answer in (readable, readable, "something else", "word" * 300)]
    rows += [{"prompt": EVIL, "completion": EVIL}]
    (folder / NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {"train": [{"path": str(folder / NAME)}], "store": str(folder / "shards"), "max_length": 200, "quality": {"invalid": "drop"}}
    return Path(prepare(Data.model_validate(told), ANSWERS, tiny_tokenizer("bytes")).report)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_data_report_opens_without_a_word_and_asks_for_nothing(window: Browser, report: Path, dark: bool) -> None:
    for width in (360, 768, 1600):
        window.look(report, width=width, dark=dark)
        assert window.said() == []
        assert [url for url in window.requests(report) if not url.startswith("data:image/svg+xml,")] == [report.as_uri()]
        window.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert window.run("return document.documentElement.scrollWidth") <= width


def test_what_rows_hold_stays_text(window: Browser, report: Path) -> None:
    window.look(report, width=1280, dark=False)
    assert window.run("return document.querySelectorAll('script, img, iframe, object, embed').length") == 0
    assert window.run("return document.title") != "broken"
    assert "<script>document.title='broken'</script>" in window.run("return document.body.textContent")
    assert NAME in window.run("return document.body.textContent")
