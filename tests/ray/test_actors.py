"""Work spread over actors: every piece once, whatever room the cluster has for them."""

import os
import threading

import pytest
import ray

from tunefleet.cluster.actors import create_actors, restarted, spread
from tunefleet.cluster.errors import PreflightError
from tunefleet.trainers.evaluation.marking import refuse_no_room
from tunefleet.trainers.run import Resources

pytestmark = pytest.mark.ray


def test_an_actor_that_finds_no_room_keeps_nobody_waiting(ray_session):
    class Doubler:
        def do(self, number):
            return 2 * number

    whole = ray.cluster_resources()["CPU"]  # so that one of them lives, and the others wait for ever
    actors = create_actors(Doubler, 3, stem="tunefleet-doubler", cpu=whole, gpu=0)
    try:
        assert sorted(spread(actors, range(9))) == [(number, 2 * number) for number in range(9)]
        assert list(spread(actors, [])) == []
    finally:
        actors.close()


def test_what_one_actor_never_ends_another_does(ray_session, tmp_path):
    class Lost:
        """Its node is gone, and it finds no other: so it looks to whoever waits for it."""

        def __init__(self, folder):
            self.folder = folder

        def do(self, number):
            if number == 0:
                try:
                    (self.folder / "lost").mkdir()
                except FileExistsError:
                    return 0
                threading.Event().wait()
            return 2 * number

    actors = create_actors(Lost, 2, tmp_path, stem="tunefleet-lost", cpu=1, gpu=0)
    try:
        assert sorted(spread(actors, range(7))) == [(number, 2 * number) for number in range(7)]
    finally:
        actors.close()


def test_an_actor_that_dies_is_started_again_does_its_item_anew_and_says_so(ray_session, tmp_path):
    class Mortal:
        def do(self, number):
            if number == 1 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return restarted()

    actors = create_actors(Mortal, 1, stem="tunefleet-mortal", cpu=1, gpu=0)
    try:
        found = dict(spread(actors, range(3)))
        assert (found[1], found[2]) == (actors.names[0], actors.names[0])
    finally:
        actors.close()


def test_what_an_actor_raises_is_raised(ray_session):
    class Failing:
        def do(self, number):
            raise ValueError(f"piece {number}")

    actors = create_actors(Failing, 1, stem="tunefleet-failing", cpu=1, gpu=0)
    try:
        with pytest.raises(ValueError, match="piece"):
            list(spread(actors, [5]))
    finally:
        actors.close()


def test_an_actor_that_no_session_could_ever_hold_is_refused_with_the_numbers():
    with pytest.raises(PreflightError, match="CPUs that can never be had") as refused:
        refuse_no_room(Resources(cpu=16), {"CPU": 4.0})
    assert "16 an actor" in str(refused.value)
    assert "at most 4" in str(refused.value)
    refuse_no_room(Resources(cpu=4), {"CPU": 4.0})
