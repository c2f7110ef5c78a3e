"""What commands do with a registry: in this machine's home, or over a server's control API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

from bascule.bundle.disk import Statement
from bascule.core import Reference
from bascule.registry.differences import Change
from bascule.registry.versions import Check, Event, Found, Model, Version

Named = Version | Reference | str


class ModelRegistry(Protocol):
    """The port that `Registry` and `RemoteRegistry` implement; see `Registry` for the methods."""

    def push(self, bundle_path: Path, *, by: str) -> Version: ...

    def resolve(self, reference: Reference | str, *, retired: bool = False) -> Version: ...

    def path(self, version: Named) -> Path: ...

    def path_to_look_at(self, version: Named) -> Path: ...

    def models(self) -> list[Model]: ...

    def versions(self, model: str) -> list[Version]: ...

    def history(self, model: str) -> list[Event]: ...

    def statements(self, version: Named, kind: str | None = None) -> list[Statement]: ...

    def checks(self, version: Named) -> list[Check]: ...

    def set_alias(
        self,
        model: str,
        alias: str,
        number: int,
        *,
        by: str,
        reason: str = "",
    ) -> Event: ...

    def drop_alias(
        self,
        model: str,
        alias: str,
        *,
        by: str,
        reason: str = "",
    ) -> Event: ...

    def tags(self, version: Named) -> dict[str, str]: ...

    def change_tags(
        self,
        version: Named,
        changes: Mapping[str, str | None],
        *,
        by: str,
    ) -> object: ...

    def search(self, text: str, *, limit: int = 100) -> list[Found]: ...

    def compare(self, before: Named, after: Named) -> list[Change]: ...

    def retire(self, model: str, number: int, *, by: str, reason: str) -> Version: ...

    def deprecate(
        self,
        model: str,
        number: int,
        *,
        by: str,
        sunset: datetime | None = None,
        successor: str = "",
        reason: str = "",
    ) -> Version: ...

    def undeprecate(self, model: str, number: int, *, by: str, reason: str = "") -> Version: ...

    def servers_of(self, version: Version) -> list[str]: ...

    def restore(self, model: str, number: int, *, by: str, reason: str = "") -> Version: ...

    def export(self, version: Named, target: Path, *, overwrite: bool = False) -> str: ...

    def import_archive(self, source: Path, *, by: str, model: str | None = None) -> Version: ...
