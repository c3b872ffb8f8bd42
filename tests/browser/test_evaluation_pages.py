"""The page of an evaluation, and the same parts in a run's report, in a real browser: quiet, within the window, and rows stay text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsers import Browser
from reports import BEGAN, EVIL, looked_into, run_folder

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.files import write_result
from tunefleet.trainers.report.evaluationpage import write_evaluation_page
from tunefleet.trainers.report.write import write_report

pytestmark = pytest.mark.browser

HOSTILE = {"source": EVIL, "label": f"{EVIL} label {'x' * 80}", "set": f"{EVIL} set", "text": f"{EVIL} {'word ' * 40}"}


def evaluation(folder: Path, names: dict[str, str]) -> Path:
    return Path(write_evaluation_page(looked_into(names), str(folder / "evaluation.html")))


def run_report(folder: Path, names: dict[str, str]) -> Path:
    storage = open_storage(run_folder(folder))
    write_result(storage, looked_into(names, gate=False))
    return Path(write_report(storage, BEGAN + 100))


@pytest.mark.parametrize("made", [evaluation, run_report])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_opens_without_a_word_asks_for_nothing_and_fits(
    window: Browser, tmp_path: Path, made: Callable[[Path, dict[str, str]], Path], dark: bool
) -> None:
    for number, names in enumerate(({}, HOSTILE)):
        page = made(tmp_path / str(number), names)
        for width in (360, 1600):
            window.look(page, width=width, dark=dark)
            assert window.said() == []
            assert [url for url in window.requests(page) if not url.startswith("data:image/svg+xml,")] == [page.as_uri()]
            window.run("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert window.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("made", [evaluation, run_report])
def test_what_rows_hold_stays_text(window: Browser, tmp_path: Path, made: Callable[[Path, dict[str, str]], Path]) -> None:
    window.look(made(tmp_path / "out", HOSTILE), width=1280, dark=False)
    assert window.run("return document.querySelectorAll('script, img, iframe, object, embed, link[rel=stylesheet]').length") == 0
    assert window.run("return document.title") != "broken"
    assert "<script>document.title='broken'</script>" in window.run("return document.body.textContent")
