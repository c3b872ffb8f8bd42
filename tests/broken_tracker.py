"""A tracker that breaks at its second point."""

from typing import Literal

from tunefleet.cluster.settings import Settings


class Broken:
    class Config(Settings):
        kind: Literal["broken_tracker"] = "broken_tracker"

    package = "json"

    def __init__(self, config):
        self.points = 0

    def begin(self, place, before):
        return {}

    def show(self, points):
        self.points += len(points)
        if self.points > 1:
            raise OSError("no route to https://me:hunter2@tracker.example")
