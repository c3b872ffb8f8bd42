"""Errors say what, got, want and fix, cross processes, and come out together."""

import pickle
import signal

import pytest

from tunefleet.cluster.errors import (
    CheckpointError,
    DataError,
    OutputError,
    PreflightError,
    Refusal,
    RequestError,
    SettingsError,
    Stopped,
    StorageError,
    TunefleetError,
    WorkerError,
    nearest,
)

KINDS = [TunefleetError, RequestError, SettingsError, DataError, OutputError, PreflightError, StorageError, CheckpointError, WorkerError]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickling_with_all_four_lines(kind):
    error = kind("what", got="this", want="that", fix="so")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "what\n  got:  this\n  want: that\n  fix:  so"


def test_lines_that_have_nothing_to_say_are_left_out():
    assert str(SettingsError("what", fix="so")) == "what\n  fix:  so"


def test_a_wrong_request_ends_with_2_a_failed_run_with_1_and_a_stopped_one_as_a_signal_would_end_it():
    assert {kind.exit_code for kind in KINDS if issubclass(kind, RequestError)} == {2}
    assert {kind.exit_code for kind in KINDS if not issubclass(kind, RequestError) and kind is not Stopped} == {1}
    assert Stopped("asked").exit_code == 128 + signal.SIGTERM
    assert Refusal([SettingsError("a"), DataError("b")]).exit_code == 2


def test_no_problem_raises_nothing_one_raises_itself_and_several_are_raised_together():
    one, two = SettingsError("one"), DataError("two")
    Refusal.raise_if([])
    with pytest.raises(SettingsError) as alone:
        Refusal.raise_if([one, SettingsError("one")])
    assert alone.value is one
    with pytest.raises(Refusal) as both:
        Refusal.raise_if(iter([one, two]))
    text = str(pickle.loads(pickle.dumps(both.value)))
    assert "SettingsError: one" in text
    assert "DataError: two" in text
    assert text.startswith("2 problems")


def test_the_nearest_word_is_found_only_when_it_is_near():
    assert nearest("lerning_rate", ["learning_rate", "seed"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate", "seed"]) == ""
