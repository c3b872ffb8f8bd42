"""Study reports in a real browser: nothing is asked for, nothing said, all fits the window, and what failed trials said stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from browsers import Browser
from reports import EVIL
from studies import BEGAN, make_study, play, population, study_folder

from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.lines import FAILED
from tunefleet.tuning.making import make_scheduler
from tunefleet.tuning.searching import make_searcher
from tunefleet.tuning.studyreport.write import write_report

pytestmark = pytest.mark.browser

SPACE = {
    "training.learning_rate": {"loguniform": [1e-5, 1e-1]},
    "training.train_batch_size": {"choice": [4, 8, 16]},
    "model.attn_implementation": {"choice": [EVIL, "eager", "x" * 200]},
}
ASHA = {"kind": "asha", "grace_steps": 20, "reduction_factor": 3}


def searched(folder: Path, ended: str | None = "done") -> Path:
    """A study whose choices and failures are hostile."""
    study = make_study(folder, name=EVIL, space=SPACE, searcher={"kind": "random", "trials": 12}, stopper=ASHA)
    lines = [replace(line, why=EVIL) if line.status == FAILED else line for line in play(make_searcher(study), make_scheduler(study), fails=("t003",))]
    output = study_folder(folder / "out", study, lines if ended else lines[:9], ended=ended)
    (output / "best.yaml").write_text(f"# {EVIL.encode('ascii', 'replace').decode()}\n")
    return output


def bred(folder: Path) -> Path:
    study = make_study(folder, space={"training.learning_rate": {"loguniform": [1e-4, 1e-1]}}, searcher={"kind": "pbt", "trials": 4})
    return study_folder(folder / "out", study, population())


@pytest.fixture(params=["done", "going", "bred"])
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    output = bred(tmp_path) if request.param == "bred" else searched(tmp_path, "done" if request.param == "done" else None)
    return Path(write_report(open_storage(str(output)), now=BEGAN + 60))


OUTSIDE = """
    return [...document.querySelectorAll('figure svg[role=img] :is(path, circle, rect)')].filter(piece => {
        const box = piece.getBoundingClientRect(), within = piece.closest('figure').getBoundingClientRect();
        return box.left < within.left - 8 || box.right > within.right + 8 || box.top < within.top - 8 || box.bottom > within.bottom + 8;
    }).length"""


def test_a_study_report_opens_without_a_word_fits_and_follows_the_readers_colours(window: Browser, report: Path) -> None:
    for width, dark in ((360, False), (360, True), (1600, False), (1600, True)):
        window.look(report, width=width, dark=dark)
        assert window.said() == []
        assert [url for url in window.requests(report) if not url.startswith("data:image/svg+xml,")] == [report.as_uri()]
        window.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert window.run("return document.documentElement.scrollWidth") <= width
        assert window.run("return document.querySelectorAll('figure svg[role=img] path').length") > 3
        assert window.run(OUTSIDE) == 0
        ground = sum(window.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
        assert ground < 150 if dark else ground > 600


def test_what_a_study_file_and_a_failed_trial_say_stays_text(window: Browser, tmp_path: Path) -> None:
    window.look(Path(write_report(open_storage(str(searched(tmp_path))))), width=1280, dark=False)
    assert window.run("return document.querySelectorAll('script, img, iframe, object, embed, link[rel=stylesheet]').length") == 0
    assert window.run("return document.title") != "broken"
    assert "<script>document.title='broken'</script>" in window.run("return document.body.textContent")
