"""The report of a run whose output lies on S3: read from there, written there, and the same page as of the same run in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from reports import BEGAN, run_folder

from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.report.write import write_report
from tunefleet.tuning.cli import main

pytestmark = pytest.mark.s3


def test_a_report_of_a_run_on_s3_is_that_of_the_same_run_in_a_folder(s3_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [{"prompt": "Who?", "reference": "Me.", "base": "Them.", "tuned": "Me."}]
    folder, there = run_folder(tmp_path / "out", samples={60: prompts}), open_storage(s3_address)
    for path in sorted(folder.rglob("*.*")):
        if path.is_file():
            there.put(path.relative_to(folder).as_posix(), path.read_bytes())
    assert write_report(there, BEGAN + 100) == f"{there.address}/report.html"
    write_report(open_storage(folder), BEGAN + 100)
    here = (folder / "report.html").read_text()
    assert there.read("report.html").decode() == here.replace(str(folder), there.address)

    assert main(["report", s3_address]) == 0
    assert capsys.readouterr().out == f"{there.address}/report.html\n"
