"""Placement groups that an actor left when it was killed. Ray keeps them, and what they hold, until the whole job ends (ray#54305)."""

from __future__ import annotations

from typing import Any


def remove_orphans() -> list[str]:
    """Remove every placement group of this session whose maker, an actor, is dead; with it go the actors in it. Returns their ids."""
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    found = [group for group in _groups() if group.creator_actor_dead and not _made_by_driver(group) and not group.is_detached]
    for group in found:
        remove_placement_group(PlacementGroup(_id(group)))
    return [group.placement_group_id.hex() for group in found]


def holding() -> list[str]:
    """Placement groups that hold resources or wait for them, each in words."""
    return [f"{group.placement_group_id.hex()} {[dict(bundle.unit_resources) for bundle in group.bundles]}" for group in _groups()]


def _groups() -> list[Any]:
    """Those that are not removed, of the job of this process."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    accessor = state._connect_and_get_accessor()
    job = ray.get_runtime_context().get_job_id()
    tables = [PlacementGroupTableData.FromString(raw) for raw in accessor.get_placement_group_table()]
    return [table for table in tables if table.state != PlacementGroupTableData.REMOVED and table.creator_job_id.hex() == job]


def _made_by_driver(group: Any) -> bool:
    """Ray calls the maker of such a group a dead actor without an id."""
    from ray._raylet import ActorID

    return bool(ActorID(group.creator_actor_id).is_nil())


def _id(group: Any) -> Any:
    from ray._raylet import PlacementGroupID

    return PlacementGroupID(group.placement_group_id)
