"""What a person sees of a study: how far it is, the best so far, the time left at most, and how each trial ended."""

import io

from rich.console import Console

from tunefleet.tuning.console import StudyConsole, ending, standing
from tunefleet.tuning.lines import TrialLine


def line(name, status, step, loss, why=""):
    return TrialLine(name, int(name), {"peft.r": 8}, status, step=step, metrics={"loss": loss}, why=why, compute={"steps": step})


def test_the_study_is_told_in_one_line():
    trials = {"0": line("0", "finished", 40, 2.0), "1": line("1", "stopped", 10, 3.0), "2": line("2", "failed", 0, None), "3": line("3", "running", 20, 2.5)}
    assert standing(trials, 8, "loss", "min", 1) == "3/8 done (1 failed, 1 stopped), 1 running, best loss 2.0000 (0: peft.r=8)"


def test_an_end_says_what_was_reached_and_why():
    assert (
        ending(line("1", "stopped", 10, 3.0, "stopped at step 10: slow"), "loss")
        == "trial 1 stopped: loss 3.0000 at step 10 (peft.r=8); stopped at step 10: slow"
    )
    assert ending(line("2", "failed", 0, None, "not finite\n  got: nan"), "loss") == "trial 2 failed (peft.r=8): not finite got: nan"


def test_time_left_is_in_proportion_and_hostile_text_is_text():
    said, now = io.StringIO(), [0.0]
    console = StudyConsole("loss", "min", console=Console(file=said, width=200), every_s=0, clock=lambda: now[0])
    trials = {"0": line("0", "running", 20, 2.0)}
    console.begin(2, 40, {})
    now[0] = 30.0
    console.show(trials["0"], trials)
    assert "at most 1m30s left" in said.getvalue()
    trials["0"] = line("0", "failed", 20, 2.0, "[bold]x[/bold]")
    console.show(trials["0"], trials)
    assert "[bold]x[/bold]" in said.getvalue()
    console.outcome(trials, "out", 30.0)
    assert "20 steps in 30s" in said.getvalue()
