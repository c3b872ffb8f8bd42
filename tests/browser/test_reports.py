"""Reports in a real browser: they ask for nothing, say nothing to the console, fit the window, follow the reader's colours, and rows stay text."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsers import Browser
from reports import COUNTS, EVIL, RUN, event, opening, run_folder, source

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.report.write import write_report

pytestmark = pytest.mark.browser

PROMPTS = [{"prompt": f"{EVIL} {'word ' * 30}", "reference": EVIL, "base": "x" * 500, "tuned": EVIL}]
WIDTHS = (360, 768, 1600)


def done(folder: Path) -> Path:
    return run_folder(folder, samples={30: PROMPTS, 60: PROMPTS}, sets=("holdout", "another set with a long name that has no place to break"))


def failed(folder: Path) -> Path:
    """Everything that a row, a file, a worker or somebody's run file can name is hostile."""
    prepared = event(7, "prepared", store=EVIL, fingerprint=EVIL, created=True, counts=COUNTS, report=EVIL, sources=[source(EVIL)])
    died = event(40, "group_failed", kind="died", ranks=[1], cause=EVIL, restart=False, reason="the budget is spent", trace=EVIL)
    events = [*opening(), prepared, died, event(50, "stopped", phase="stopped", why=EVIL)]
    run = {**RUN, "name": EVIL, "model": {"name_or_path": EVIL}, "data": {"train": [{"path": EVIL}], "max_length": 64}, "output": EVIL}
    return run_folder(folder, steps=20, done=None, events=events, run=run, sets=(EVIL,), samples={20: PROMPTS})


def going(folder: Path) -> Path:
    return run_folder(folder, steps=1, done=None, events=opening(), evaluated=[])


@pytest.fixture(params=[done, failed, going], ids=lambda made: made.__name__)
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(write_report(open_storage(request.param(tmp_path / "out"))))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_report_opens_without_a_word_and_asks_for_nothing(window: Browser, report: Path, dark: bool) -> None:
    for width in WIDTHS:
        window.look(report, width=width, dark=dark)
        assert window.said() == []
        assert [url for url in window.requests(report) if not url.startswith("data:image/svg+xml,")] == [report.as_uri()]
        window.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert window.run("return document.documentElement.scrollWidth") <= width
        assert window.run("return parseFloat(getComputedStyle(document.querySelector('h1')).fontSize)") >= 24, "the style was not let in"
        ground = sum(window.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
        assert ground < 150 if dark else ground > 600


def test_what_rows_and_generations_hold_stays_text(window: Browser, tmp_path: Path) -> None:
    for folder in (done(tmp_path / "done"), failed(tmp_path / "failed")):
        window.look(Path(write_report(open_storage(folder))), width=1280, dark=False)
        assert window.run("return document.querySelectorAll('script, img, iframe, object, embed, link[rel=stylesheet]').length") == 0
        assert window.run("return document.title") != "broken"
        assert "<script>document.title='broken'</script>" in window.run("return document.body.textContent")


def test_every_curve_lies_within_its_drawing(window: Browser, tmp_path: Path) -> None:
    window.look(Path(write_report(open_storage(done(tmp_path / "out")))), width=360, dark=False)
    outside = """
        return [...document.querySelectorAll('figure svg[role=img] :is(path, circle, rect)')].filter(piece => {
            const box = piece.getBoundingClientRect(), within = piece.closest('figure').getBoundingClientRect();
            return box.left < within.left - 8 || box.right > within.right + 8 || box.top < within.top - 8 || box.bottom > within.bottom + 8;
        }).length"""
    assert window.run("return document.querySelectorAll('figure svg[role=img] path').length") > 5
    assert window.run(outside) == 0


def test_no_short_word_is_broken_on_a_phone(window: Browser, tmp_path: Path) -> None:
    window.look(Path(write_report(open_storage(done(tmp_path / "out")))), width=360, dark=False)
    broken = """
        return [...document.querySelectorAll('th, td, dt, .figures dd')].filter(cell => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            const lines = new Set([...range.getClientRects()].map(box => Math.round(box.bottom / 8)));
            return cell.textContent.length <= 16 && lines.size > 2;
        }).map(cell => cell.textContent)"""
    assert window.run(broken) == []


def test_on_paper_nothing_is_hidden_behind_a_bar_to_scroll(window: Browser, tmp_path: Path) -> None:
    window.look(Path(write_report(open_storage(done(tmp_path / "out")))), width=794, dark=False, media="print")
    assert window.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert window.run("return getComputedStyle(document.querySelector('.text')).maxHeight") == "none"
