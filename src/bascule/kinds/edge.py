"""The edge as jobs: a version is published to devices, or what was published signed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.app import open_catalogue, open_registry, open_repository
from bascule.core import Limits, Reference
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.settings import Settings


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`version` and `channel`; without a version, what is published is signed again."""
    if not content.get("version"):
        return {}
    version = str(Reference.parse(str(content["version"])))
    return {"version": version, "channel": str(content.get("channel") or "stable")}


def publish_edge(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Publish, or refresh; noted in the history."""
    from bascule.fleet import publish, record

    repository, chosen = open_repository(settings), task.input
    if not chosen:
        ends = repository.refresh()
        return dict(zip(("expires", "root_expires"), (str(end) for end in ends), strict=True))
    registry = open_registry(settings)
    published = publish(registry, repository, chosen["version"], chosen["channel"], by=task.by)
    result: dict[str, Any] = msgspec.to_builtins(published)
    role = f"channel-{published.channel}"
    record(open_catalogue(settings), role, "channel_published", result, task.by)
    return result


def _model(content: Mapping[str, Any]) -> str:
    return Reference.parse(content["version"]).model if content.get("version") else ANY


PUBLISH_EDGE = Kind(
    name="publish_edge", run=publish_edge, parse=parsed, right="deploy", model_of=_model,
    is_open=True, places=1, retries=2, limits=Limits(7_200.0, half_of_memory(), is_nice=True),
)  # fmt: skip
