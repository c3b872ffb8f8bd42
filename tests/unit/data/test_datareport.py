"""The quality report: what is found can be looked at, and no row is more than text on the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError
from tunefleet.data.layout import ANSWERS, CLASSIFICATION, PAIRS, PREFERENCE, TEXT
from tunefleet.data.prepare import prepare
from tunefleet.data.settings import Data

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("bytes")


def store(tmp_path, tokenizer, rows, layout=ANSWERS, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare(Data(**{"train": [{"path": str(path)}], "holdout": 0.1, "store": str(tmp_path / "shards"), "max_length": 300} | settings), layout, tokenizer)


def asks(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {i} plus three?", "completion": f"It is {i + 3}."} for i in range(count)]


class Read(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(prepared) -> Read:
    return Read(Path(prepared.report).read_text())


def test_a_row_that_holds_a_script_stays_text(tmp_path, tokenizer):
    rows = [*asks(40), {"prompt": SCRIPT, "completion": SCRIPT}, {"prompt": SCRIPT, "completion": SCRIPT}, {"prompt": SCRIPT, "completion": "no"}]
    page = page_of(store(tmp_path, tokenizer, rows))
    assert page.text.count(SCRIPT) >= 3
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_labels_with_markup_stay_text_too(tmp_path, tokenizer):
    rows = [{"text": f"number {i}", "label": ["<b>yes</b>", "no"][i % 2]} for i in range(40)]
    page = page_of(store(tmp_path, tokenizer, rows, CLASSIFICATION))
    assert "<b>yes</b>" in page.text
    assert "b" not in {tag for tag, _ in page.tags}


def test_what_to_do_comes_first_and_the_rows_stand_beside_each_other(tmp_path, tokenizer):
    prepared = store(tmp_path, tokenizer, [*asks(40), *asks(3), {**asks(1)[0], "completion": "It is four."}])
    page = page_of(prepared)
    assert page.text.index("What to do") < page.text.index("What was looked for") < page.text.index("Rows to look at")
    assert "Rows that equal an earlier one: 3 of 44 (6.8%)." in page.text
    report = json.loads(Path(prepared.report).with_suffix(".json").read_text())
    (case,) = next(finding for finding in report["findings"] if finding["kind"] == "contradictions")["cases"]
    assert case["other"].endswith("rows.jsonl:1")
    assert case["place"].endswith("rows.jsonl:44")
    assert "It is 3." in case["other_text"]
    assert "It is four." in case["place_text"]
    assert report["counts"]["exact_duplicates"] == prepared.counts["exact_duplicates"] == 3


def test_clean_rows_have_nothing_to_do(tmp_path, tokenizer):
    prepared = store(tmp_path, tokenizer, [{"prompt": f"p{i}" * 9, "completion": f"a{i}" * 20} for i in range(60)], max_length=250)
    assert "All 60 rows stay, and nothing has to be mended." in page_of(prepared).text


def test_refused_rows_have_a_report_and_no_store(tmp_path, tokenizer):
    with pytest.raises(DataError) as caught:
        store(tmp_path, tokenizer, [*asks(20), {"prompt": 3}])
    (report,) = (tmp_path / "shards" / "refused").glob("*/report.html")
    assert f"{report} shows them" in str(caught.value)
    assert "Nothing was prepared" in Read(report.read_text()).text
    assert not list((tmp_path / "shards").glob("*/index.json"))


def test_a_report_grows_with_its_findings_and_not_with_the_rows(tmp_path, tokenizer):
    small = Path(store(tmp_path, tokenizer, asks(100)).report).stat().st_size
    large = Path(store(tmp_path, tokenizer, asks(3000)).report).stat().st_size
    assert large < 2 * small < 1 << 20


LONG = {"messages": [{"role": role, "content": "word " * length} for role, length in (("user", 9), ("assistant", 5), ("user", 80), ("assistant", 7))]}
PAIR = ["a text " * 40, "of two"]


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        (LONG, ANSWERS),
        ({"prompt": "Go on? " * 40, "completion": "Yes. " * 3}, ANSWERS),
        ({"prompt": "Go on?", "chosen": "Yes. " * 50, "rejected": "No. " * 9}, PREFERENCE),
        ({"sentence1": PAIR[0], "sentence2": PAIR[1], "score": 1.0}, PAIRS),
        ({"sentence1": PAIR[0], "sentence2": PAIR[1], "label": "yes"}, CLASSIFICATION),
    ],
)
def test_the_length_that_would_cut_nothing_cuts_nothing_and_one_less_does(tmp_path, tokenizer, row, layout):
    def made(max_length: int):
        settings = {"unsupervised": "keep", "truncated": "keep"}
        return store(tmp_path, tokenizer, [row], layout, max_length=max_length, holdout=0, quality=settings)

    told = json.loads(Path(made(60).report).with_suffix(".json").read_text())
    (needed,) = {length for source in told["sources"] for length in source["needed"]}
    assert any(f"data.max_length {needed:,} would cut none of them" in advice["todo"] for advice in told["advice"])
    page = page_of(made(60)).text
    assert f"{needed} tokenscut at 60" in page
    assert (made(needed).counts["truncated"], made(needed - 1).counts["truncated"]) == (0, 1)


def test_rows_that_lose_all_that_they_teach_are_told_from_those_that_teach_nothing(tmp_path, tokenizer):
    long, silent = {"prompt": "Go on? " * 100, "completion": "Yes."}, {"messages": [{"role": "user", "content": "Who?"}]}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(silent) + "\n")
    rows = [*asks(40), long, {**long, "completion": "No."}]
    prepared = store(tmp_path, tokenizer, rows, quality={"unsupervised": "drop"}, train=[{"path": str(tmp_path / "rows.jsonl")}, {"path": str(path)}])
    assert prepared.counts["unsupervised"] == 3
    assert "3 of 43 (7.0%). Of them 2 lose it to data.max_length" in page_of(prepared).text


def test_a_side_without_rows_has_a_report_that_says_so_first(tmp_path, tokenizer):
    silent = [{"messages": [{"role": "user", "content": f"Who is {i}?"}]} for i in range(9)]
    with pytest.raises(DataError, match="no row is left"):
        store(tmp_path, tokenizer, silent, quality={"unsupervised": "drop"})
    (page,) = (tmp_path / "shards").glob("refused/*/report.html")
    text = Read(page.read_text()).text
    assert text.index("Nothing was prepared. data.train: no row is left to train on.") < text.index("9 of 9")


def test_documents_of_several_examples_are_counted(tmp_path, tokenizer):
    texts = [{"text": "A story. " * length} for length in (1, 3, 60, 70)]
    prepared = store(tmp_path, tokenizer, texts, TEXT, holdout=0)
    assert prepared.counts["truncated"] == 0
    assert "documents that are longer than data.max_length: 2 of 4 (50%)" in page_of(prepared).text
