"""The tape: what lives, and when most of it does; the same for tensors without memory, whose values nobody has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tunefleet.trainers.plan.tape import Held, Peak, Tape, peak


def layers(tape: Tape) -> None:
    """A product, its backward pass, a mask, and a number."""
    tape.phase = "weights"
    weight = torch.zeros(64, 32, requires_grad=True)
    tape.mark([weight], "weights")
    tape.phase = "passes"
    inputs = torch.ones(16, 64)
    outputs = (inputs @ weight).exp()
    outputs[MASK].sum().backward()
    assert weight.grad is not None
    tape.mark([weight.grad], "gradients")
    norm = float(weight.grad.norm())
    assert norm > 0


MASK = torch.arange(16) % 2 == 0


def written_down(run: Callable[[Tape], None], *, real: bool) -> Tape:
    if real:
        with Tape() as tape:
            run(tape)
        return tape
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes, Tape(fakes) as tape:
        run(tape)
    return tape


@pytest.mark.parametrize("real", [True, False])
def test_what_is_made_is_counted_until_nobody_holds_it(real: bool) -> None:
    def run(tape: Tape) -> None:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second * 2
        second.view(10, 100)
        assert third.numel() == 1000

    tape = written_down(run, real=real)
    assert peak(tape.held).bytes == 8000
    assert [held.bytes for held in tape.held] == [4000] * 3
    assert all(held.died <= tape.now for held in tape.held)


def test_a_dry_run_finds_the_peak_of_a_real_one() -> None:
    real, dry = (peak(written_down(layers, real=real).held) for real in (True, False))
    assert real.bytes == pytest.approx(dry.bytes, rel=0.05)
    assert dry.parts["weights"] == real.parts["weights"] == 4 * 64 * 32


def test_the_peak_is_the_moment_when_most_is_held() -> None:
    held = [Held(10, 1, "a", died=5, kind="weights"), Held(7, 2, "b", died=3), Held(8, 4, "b", kind="weights"), Held(9, 6, "c")]
    assert peak(held) == Peak(18, "b", {"weights": 18})
    assert peak(held, phases=["a"]).bytes == 10
    assert peak([]) == Peak(0, "", {})


def test_experts_share_the_tokens_evenly() -> None:
    def run(tape: Tape) -> None:
        hits = torch.zeros(2, 100, dtype=torch.bool)
        found.append(tuple(hits.nonzero().shape))

    found: list[tuple[int, ...]] = []
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes, Tape(fakes, experts=4) as tape:
        run(tape)
    assert found == [(50, 2)]
