"""The scheduler of a checked study, as Ray Tune takes it. Import it where it is used: it imports Ray."""

from __future__ import annotations

from ray.tune.schedulers import TrialScheduler

from tunefleet.tuning.goal import TrialName
from tunefleet.tuning.stopping import StudyScheduler
from tunefleet.tuning.study import Study
from tunefleet.tuning.studycheck import make_goal


def make_scheduler(study: Study, name: TrialName = lambda trial: str(trial.trial_id)) -> TrialScheduler:
    """The searcher's own scheduler where it has one (PBT), else a StudyScheduler around the stopper's; ``replay_scheduler`` brings that one back."""
    goal = make_goal(study)
    own = study.searcher().scheduler(goal, name)
    return own if own is not None else StudyScheduler(study.stopper(), goal, name)


def trials_in_all(study: Study) -> int:
    """How many trials the study begins, unless its budget ends it before."""
    return study.searcher().configurations(make_goal(study)) * study.file.repeats
