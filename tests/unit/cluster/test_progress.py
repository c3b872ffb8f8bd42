"""What a person sees: rate, time left, and plain lines where there is no terminal."""

import io

import pytest
from rich.console import Console

from tunefleet.cluster.progress import Pace, Progress, duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (185, "3m05s"), (3600, "1h00m"), (7440, "2h04m")])
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_the_pace_is_that_of_the_last_lines_and_starts_anew_after_going_back():
    pace = Pace()
    assert pace.steps_per_s() is None
    for step in range(100):
        pace.add(step * 0.5, step)
    assert pace.steps_per_s() == pytest.approx(2.0)
    pace.add(100.0, 50)
    assert pace.steps_per_s() is None
    pace.add(101.0, 51)
    assert pace.steps_per_s() == pytest.approx(1.0)


def lines_of(records, *, every_s, steps):
    out, now = io.StringIO(), iter(range(10**6))
    with Progress(steps, console=Console(file=out, width=200), every_s=every_s, clock=lambda: float(next(now))) as progress:
        for record in records:
            progress.update(record)
        progress.say("said [bold]as it stands[/bold]")
    return out.getvalue().splitlines()


def test_without_a_terminal_lines_come_now_and_then_and_at_the_end():
    lines = lines_of([{"step": step, "loss": 1.0, "tokens_per_second": 1234.0} for step in range(1, 26)], every_s=10.0, steps=25)
    assert [line.split("  ")[0] for line in lines] == ["step 1/25", "step 11/25", "step 21/25", "step 25/25", "said [bold]as it stands[/bold]"]
    assert lines[1] == "step 11/25  loss 1.0000  1.00 steps/s  1,234 tokens/s  14s left"


def test_a_line_without_a_step_or_a_loss_is_no_problem():
    assert lines_of([{"event": "x"}, {"step": 1, "loss": None}], every_s=0.0, steps=2)[0] == "step 1/2  "
