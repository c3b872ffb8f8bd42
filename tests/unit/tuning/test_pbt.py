"""Population based training: only what a resume may change, looked at where it is evaluated and saved, never out of the space."""

from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers.pbt import _explore
from studies import study_file

from tunefleet.cluster.errors import Refusal, RequestError
from tunefleet.tuning.goal import STEP
from tunefleet.tuning.making import make_scheduler, trials_in_all
from tunefleet.tuning.population import kept_within, listed, mutations
from tunefleet.tuning.searching import make_searcher
from tunefleet.tuning.space import Choices, Numbers, drawn
from tunefleet.tuning.studycheck import load_study

RATE = {"training.learning_rate": {"loguniform": [1e-4, 1e-1]}}
PBT = {"kind": "pbt", "trials": 4, "interval_steps": 20}


def whats(path) -> list[str]:
    with pytest.raises(RequestError) as refused:
        load_study(path)
    found = refused.value.problems if isinstance(refused.value, Refusal) else [refused.value]
    return [problem.what.partition(" (")[0] for problem in found]


def test_a_good_population_begins_with_as_many_points(tmp_path):
    study = load_study(study_file(tmp_path, space=RATE, searcher=PBT))
    searcher = make_searcher(study)
    rates = [searcher.suggest(str(i))["training.learning_rate"] for i in range(trials_in_all(study))]
    assert len(set(rates)) == 4
    assert searcher.suggest("more") is None


def test_what_a_resume_may_not_change_is_refused_by_key(tmp_path):
    fixed = {"peft.r": {"choice": [4, 8]}, "training.train_batch_size": {"int": [4, 8]}, "training.max_steps": {"choice": [180, 360]}}
    path = study_file(tmp_path, space={**RATE, **fixed, "training.weight_decay": {"uniform": [0, 0.1]}}, searcher=PBT, run={"peft": {"kind": "lora"}})
    assert whats(path) == [f"space.{key}: pbt may not change it while a trial goes on" for key in sorted(fixed)]


@pytest.mark.parametrize(
    ("interval", "saved", "what"),
    [
        (30, 10, "steps that no evaluation meets"),
        (40, 30, "steps at which nothing is saved"),
        (20, None, "steps at which nothing is saved"),
        (180, 20, "no trial"),
    ],
)
def test_looks_fall_on_evaluations_and_checkpoints(tmp_path, interval, saved, what):
    path = study_file(tmp_path, space=RATE, searcher={**PBT, "interval_steps": interval}, run={"checkpoint": {"every_steps": saved}})
    found = whats(path)
    assert all(one.startswith("searcher.interval_steps: ") for one in found)
    assert any(what in one for one in found)


def test_a_stopper_and_repeats_have_no_place_beside_it(tmp_path):
    path = study_file(tmp_path, space=RATE, searcher=PBT, repeats=2, stopper={"kind": "plateau"})
    assert whats(path) == ["stopper: pbt decides itself which trials go on", "repeats: pbt changes trials while they run"]


def test_a_perturbed_parameter_never_leaves_its_range(tmp_path):
    space = {
        "a": Numbers(1e-4, 1e-1, log=True),
        "b": Choices(("x", "y", "z")),
        "c": Numbers(2, 10, step=2, whole=True),
        "d": Numbers(0, 10_000, step=1, whole=True),
    }
    config = {**drawn(space, 0, 0), "other": 7}
    moving = mutations(space, 0)
    for _ in range(300):
        config, _ = _explore(config, moving, 0.2, (1.25, 0.8), lambda found: kept_within(space, found))
        assert all(axis.holds(config[key]) for key, axis in space.items()), config
        assert config["other"] == 7


def trial(name, status):
    made = Trial("none", config={"training.learning_rate": 1e-2}, trial_id=name, stub=True)
    made.set_status(status)
    return made


@pytest.mark.parametrize(("together", "decision"), [(True, "CONTINUE"), (False, "PAUSE")])
def test_no_trial_is_paused_for_one_that_waits_where_there_is_room_for_both(tmp_path, together, decision):
    population = make_scheduler(load_study(study_file(tmp_path, space=RATE, searcher=PBT)))
    population.together = together
    goes_on, waits = trial("00000", Trial.RUNNING), trial("00001", Trial.PENDING)
    controller = SimpleNamespace(search_alg=None, get_trials=lambda: [goes_on, waits])
    for one in (goes_on, waits):
        population.on_trial_add(controller, one)
    assert population.on_trial_result(controller, goes_on, {STEP: 20, "loss": 1.0}) == decision


def test_trials_that_wait_for_their_turn_get_none_where_the_study_is_ending(tmp_path):
    population = make_scheduler(load_study(study_file(tmp_path, space=RATE, searcher=PBT)))
    every = [trial("00000", Trial.RUNNING), trial("00001", Trial.PAUSED), trial("00002", Trial.PENDING)]
    stopped: list[Trial] = []
    controller = SimpleNamespace(search_alg=None, get_trials=lambda: every, stop_trial=stopped.append)
    for one in every:
        population.on_trial_add(controller, one)
    assert population.choose_trial_to_run(controller) in every[1:]
    assert stopped == []
    population.ending = lambda: True
    assert population.choose_trial_to_run(controller) is None
    assert stopped == every[1:]


def test_a_value_that_is_drawn_anew_is_none_that_the_population_began_with():
    space = {"a": Numbers(1e-4, 1e-1, log=True)}
    begun = {drawn(space, 0, number)["a"] for number in range(50)}
    draw = mutations(space, 0)["a"]
    assert not begun & {draw() for _ in range(50)}


def test_short_lists_are_moved_along_and_long_ones_by_factors():
    assert listed(Numbers(2, 10, step=2, whole=True)) == [2, 4, 6, 8, 10]
    assert listed(Numbers(0, 10_000, step=1, whole=True)) is None
    assert listed(Numbers(0, 1)) is None
