"""The edge as jobs: a version is published to devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.app import open_catalogue, open_registry, open_repository
from bascule.core import Limits, Reference
from bascule.jobs import Kind, Live, Task, half_of_memory

if TYPE_CHECKING:
    from bascule.settings import Settings


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`version` and `channel`."""
    version = str(Reference.parse(str(content.get("version", ""))))
    return {"version": version, "channel": str(content.get("channel") or "stable")}


def publish_edge(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Publish; noted in the history."""
    from bascule.fleet import publish, record

    repository, registry, chosen = open_repository(settings), open_registry(settings), task.input
    published = publish(registry, repository, chosen["version"], chosen["channel"], by=task.by)
    result: dict[str, Any] = msgspec.to_builtins(published)
    role = f"channel-{published.channel}"
    record(open_catalogue(settings), role, "channel_published", result, task.by)
    return result


PUBLISH_EDGE = Kind(
    name="publish_edge", run=publish_edge, parse=parsed, right="deploy",
    model_of=lambda content: Reference.parse(content["version"]).model,
    is_open=True, places=1, retries=2, limits=Limits(7_200.0, half_of_memory(), is_nice=True),
)  # fmt: skip
