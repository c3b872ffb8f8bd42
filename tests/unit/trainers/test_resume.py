"""What may differ from the first run's file on resume, and what may not."""

import pytest

from tunefleet.trainers.resume import differences
from tunefleet.trainers.run import RunFile

PLAIN = {"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 10}, "output": "o"}


def changes(**sections):
    merged = {key: {**PLAIN.get(key, {}), **value} if isinstance(value, dict) else value for key, value in sections.items()}
    return differences(RunFile.model_validate(PLAIN), RunFile.model_validate({**PLAIN, **merged}))


@pytest.mark.parametrize(
    ("sections", "keys"),
    [
        ({"training": {"seed": 1}}, ["training.seed"]),
        ({"training": {"train_batch_size": 8}}, ["training.train_batch_size"]),
        ({"model": {"name_or_path": "n"}}, ["model.name_or_path"]),
        ({"data": {"max_length": 8}}, ["data.max_length"]),
        ({"objective": {"kind": "pretrain"}}, ["objective.kind"]),
        ({"data": {"quality": {"truncated": "drop"}, "store": "s"}}, ["data.quality.truncated"]),
    ],
)
def test_what_fixes_examples_loss_and_shapes_is_refused(sections, keys):
    assert [problem.what for problem in changes(**sections).refused] == [f"{key}: may not change on resume" for key in keys]


def test_another_kind_of_weights_is_refused():
    assert "peft.kind: may not change on resume" in [problem.what for problem in changes(peft="lora").refused]


@pytest.mark.parametrize(
    "sections",
    [
        {"zero": {"stage": 3}},
        {"scaling": {"num_workers": 7}},
        {"training": {"micro_batch_size": 1, "max_steps": 99, "learning_rate": 1e-2, "precision": "bf16"}},
        {"checkpoint": {"every_steps": 1}},
        {"evaluation": {"every_steps": 1, "early_stopping_patience": 2}},
        {"data": {"store": "elsewhere", "batching": "pad"}},
        {"output": "elsewhere"},
    ],
)
def test_what_only_moves_the_work_is_not_refused_and_each_difference_is_said(sections):
    found = changes(**sections)
    assert found.refused == ()
    wanted = {f"{key}.{name}" for key, value in sections.items() if isinstance(value, dict) for name in value}
    assert {key for key, _, _ in found.changed} == wanted
