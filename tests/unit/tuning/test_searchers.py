"""Every searcher: what it suggests lies in the space, and a study that was cut anywhere suggests what the whole one did."""

from dataclasses import replace

import pytest
from studies import make_study, play, surface

from tunefleet.cluster.errors import OutputError
from tunefleet.cluster.metrics import Lines
from tunefleet.cluster.plugins import kinds
from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.lines import ENDED, FAILED, FINISHED, STOPPED, TRIALS, TrialLine, last_lines, read_trials
from tunefleet.tuning.making import make_scheduler, trials_in_all
from tunefleet.tuning.searching import StudySearcher, make_searcher, replay_searcher
from tunefleet.tuning.stopping import replay_scheduler
from tunefleet.tuning.study import SEARCHERS, SEED
from tunefleet.tuning.studycheck import make_goal

STILL = [kind for kind in kinds(SEARCHERS) if kind != "pbt"]
"""Searchers that leave a trial's parameters alone: those that a list of lines can bring back."""
ASHA = {"kind": "asha", "grace_steps": 20, "reduction_factor": 3}


def a_study(folder, kind, **replaced):
    settings = {"kind": kind} if kind == "grid" else {"kind": kind, "trials": 14, "seed": 3}
    return make_study(folder, searcher=settings, stopper=ASHA, **replaced)


@pytest.mark.parametrize("kind", STILL)
def test_suggestions_lie_in_the_space_and_end_with_the_last(tmp_path, kind):
    study = a_study(tmp_path, kind)
    lines = list(play(make_searcher(study), make_scheduler(study)))
    trials = last_lines(lines)
    assert len(trials) == trials_in_all(study)
    assert all(set(line.parameters) == set(study.space()) for line in trials.values())
    assert all(axis.holds(line.parameters[key]) for line in trials.values() for key, axis in study.space().items())


@pytest.mark.parametrize("kind", STILL)
def test_a_study_that_was_cut_anywhere_goes_on_as_the_whole_one(tmp_path, kind):
    study = a_study(tmp_path, kind, repeats=2)
    fails = ("t004",)
    whole = list(play(make_searcher(study), make_scheduler(study), abreast=1, fails=fails))
    for cut in range(0, len(whole), 7):
        searcher = replay_searcher(make_searcher(study), whole[:cut])
        scheduler = replay_scheduler(make_scheduler(study), whole[:cut])
        rest = list(play(searcher, scheduler, abreast=1, before=whole[:cut], fails=fails))
        assert rest == whole[cut:], f"cut after {cut} lines"


@pytest.mark.parametrize("kind", STILL)
def test_with_several_trials_at_a_time_the_next_suggestion_follows_from_the_lines_alone(tmp_path, kind):
    study = a_study(tmp_path, kind)
    whole = list(play(make_searcher(study), make_scheduler(study), abreast=3, arrival=2, fails=("t006",)))
    begun: set[str] = set()
    for number, line in enumerate(whole):
        if line.id not in begun:
            assert replay_searcher(make_searcher(study), whole[:number]).suggest(line.id) == line.parameters
            begun.add(line.id)
    assert len(begun) == trials_in_all(study)


@pytest.mark.parametrize("kind", STILL)
def test_lines_come_back_from_the_file_as_they_went_in(tmp_path, kind):
    study = a_study(tmp_path, kind)
    lines = list(play(make_searcher(study), make_scheduler(study)))
    storage = open_storage(str(tmp_path / "study"))
    file = Lines(storage, TRIALS)
    for line in lines:
        file.add(line.to_json())
    assert read_trials(storage) == lines
    assert replay_searcher(make_searcher(study), read_trials(storage)).suggest("next") is None


def test_lines_of_another_study_are_refused(tmp_path):
    lines = list(play(make_searcher(a_study(tmp_path, "random")), make_scheduler(a_study(tmp_path, "random"))))
    with pytest.raises(OutputError, match=r"trials\.jsonl is not of this study"):
        replay_searcher(make_searcher(a_study(tmp_path, "grid")), lines)


def test_a_configuration_is_tried_with_every_seed_before_the_next(tmp_path):
    study = make_study(tmp_path, repeats=3)
    searcher = make_searcher(study)
    suggested = [searcher.suggest(str(i)) for i in range(6)]
    assert [one[SEED] for one in suggested] == [0, 1, 2, 0, 1, 2]
    assert [{key: one[key] for key in study.space()} for one in suggested[:3]] == [{key: suggested[0][key] for key in study.space()}] * 3


def test_a_second_end_of_a_trial_changes_nothing(tmp_path):
    study = a_study(tmp_path, "random")
    searcher = make_searcher(study)
    parameters = searcher.suggest("a")
    for _ in range(2):
        searcher.ended(TrialLine("a", 0, parameters, FINISHED, step=180, metrics={"loss": surface(parameters, 180)}))
    assert all(line.status in ENDED for line in last_lines(list(play(searcher, make_scheduler(study)))).values())


class Heard:
    """A proposer that keeps what it is told."""

    def __init__(self):
        self.told = []

    def propose(self, number):
        return {"training.learning_rate": 0.1}

    def tell(self, number, step, value, *, whole):
        self.told.append((number, step, value, whole))


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([(FINISHED, 180, 1.0), (FINISHED, 60, 2.0)], (0, 60, 1.5, True)),  # the second has ended by its own patience
        ([(FINISHED, 180, 1.0), (STOPPED, 180, 2.0)], (0, 180, 1.5, False)),
        ([(FINISHED, 180, 1.0), (FAILED, 40, 0.1)], (0, 40, None, False)),
        ([(FINISHED, 180, 1.0), (STOPPED, 20, None)], (0, 20, None, False)),
    ],
)
def test_a_searcher_is_told_of_all_seeds_or_that_one_came_to_nothing(tmp_path, ends, told):
    proposer = Heard()
    searcher = StudySearcher(proposer, make_goal(make_study(tmp_path, repeats=2)), (0, 1))
    for number, (status, step, value) in enumerate(ends):
        searcher.suggest(str(number))
        searcher.ended(TrialLine(str(number), number, {}, status, step=step, metrics={"loss": value}))
    assert proposer.told == [told]


def test_a_trial_that_the_budget_cut_has_told_nothing_yet(tmp_path):
    study = a_study(tmp_path, "random")
    proposer = Heard()
    searcher = StudySearcher(proposer, make_goal(study))
    line = TrialLine("a", 0, proposer.propose(0), STOPPED, step=20, metrics={"loss": 1.0}, cut=True)
    replay_searcher(searcher, [line])
    assert proposer.told == []
    searcher.ended(replace(line, status=FINISHED, cut=False, step=180))
    assert proposer.told == [(0, 180, 1.0, True)]
