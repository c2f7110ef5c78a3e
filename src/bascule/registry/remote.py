"""A registry over the control API of a server. Rules are kept there; here values are read back.

Bundles are downloaded as the archives of `oci`, verified, and kept until the process ends.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from bascule.bundle.disk import (
    Statement,
    digest_of,
    read_manifest,
    statements_by_file,
    verify_bundle,
)
from bascule.core import (
    Conflict,
    Invalid,
    Reference,
    Scratch,
    Untrusted,
    check_name,
    check_replaceable,
    replacing,
)
from bascule.registry.differences import Change
from bascule.registry.oci import Cargo, read_archive, write_archive
from bascule.registry.versions import (
    Alias,
    Check,
    Event,
    Found,
    Model,
    Named,
    Version,
    models_table,
)
from bascule.security import Key, Permission
from bascule_client.control import PAGE, ControlClient, path_of

if TYPE_CHECKING:
    from bascule.registry.keys import CatalogueKeys
    from bascule.registry.registry import Registry

T = TypeVar("T")
ModelRegistry: TypeAlias = "Registry | RemoteRegistry"
"""What commands do with a registry, here or over a server; see `Registry` for the methods."""
Keys: TypeAlias = "CatalogueKeys | RemoteKeys"
"""What commands do with keys; see `CatalogueKeys`."""


class RemoteRegistry:
    """See `Registry`; errors are those that `Registry` raises on the server."""

    def __init__(self, client: ControlClient, *, required_keys: Sequence[Path] = ()) -> None:
        """Nothing is asked yet.

        Args:
            client: The server, and the caller's key.
            required_keys: Files of public keys, one of which must have signed what is used here.
        """
        self._client = client
        self._required_keys = tuple(required_keys)
        self._folder: Scratch | None = None

    def _repr_html_(self) -> str:
        from bascule.documents import notebook

        return notebook(models_table(self.models()))

    def push(self, bundle_path: Path, *, by: str) -> Version:
        """Upload a bundle. Where callers need keys, the server records the name of the key."""
        manifest = read_manifest(bundle_path)
        statements = [*statements_by_file(bundle_path).values()]
        with Scratch("bascule-push-") as folder:
            file = folder / "bundle.tar"
            now = datetime.now(UTC)
            write_archive(Cargo(manifest.name, 0, now, bundle_path, statements), file)
            return self._upload(manifest.name, file, by)

    def import_archive(self, source: Path, *, by: str, model: str | None = None) -> Version:
        """Upload what `export` wrote, after it was verified here."""
        with Scratch("bascule-import-") as folder:
            read_archive(source, folder)
            name = read_manifest(folder, verify=False).name
        return self._upload(model or name, source, by)

    def _upload(self, model: str, file: Path, by: str) -> Version:
        path = path_of("models", model, "versions")
        return _version(self._client.upload(path, file, user=by))

    def export(self, version: Named, target: Path, *, overwrite: bool = False) -> str:
        found = self._found(version)
        check_replaceable(target)
        if target.exists() and not overwrite:
            raise Conflict(f"{target} exists already", hint="choose another name, or --overwrite")
        with replacing(target) as draft:
            return self._client.download(_path(found, "bundle"), draft)

    def path(self, version: Named) -> Path:
        found = self._found(version)
        path = self.path_to_look_at(found)
        if self._required_keys:
            try:
                verify_bundle(path, self._required_keys)
            except Untrusted as problem:
                raise Untrusted(
                    f"{found} may not be used: {problem.message}",
                    hint="sign the bundle with one of security.required_keys, and push it again",
                ) from None
        return path

    def path_to_look_at(self, version: Named) -> Path:
        found = self._found(version)
        if self._folder is None:
            self._folder = Scratch("bascule-remote-")
            atexit.register(self._folder.remove)
        folder = self._folder.path / found.digest.removeprefix("sha256:")
        if not folder.exists():
            with replacing(folder) as draft, Scratch("bascule-download-") as place:
                archive = place / "bundle.tar"
                self._client.download(_path(found, "bundle"), archive)
                draft.mkdir()
                read_archive(archive, draft)
                if digest_of(draft) != found.digest:
                    raise Untrusted(
                        f"the server sent another bundle than {found}",
                        hint="check the server and what is between",
                    )
        return folder

    def resolve(self, reference: Reference | str, *, retired: bool = False) -> Version:
        wanted = Reference.parse(reference) if isinstance(reference, str) else reference
        if retired and wanted.number is not None:
            return _version(
                self._client.ask("GET", path_of("models", wanted.model, "versions", wanted.number))
            )
        path = path_of("models", wanted.model, "resolve")
        return _version(self._client.ask("GET", path, number=wanted.number, alias=wanted.alias))

    def models(self) -> list[Model]:
        found = []
        for one in self._client.items(path_of("models")):
            newest = _version(one["newest"])
            aliases = {
                name: Alias(one["name"], name, number, newest.pushed_at)
                for name, number in one["aliases"].items()
            }
            found.append(Model(one["name"], one["versions"], newest, aliases))
        return found

    def versions(self, model: str) -> list[Version]:
        path = path_of("models", model, "versions")
        return [_version(one) for one in self._client.items(path)][::-1]

    def history(self, model: str) -> list[Event]:
        path = path_of("models", model, "history")
        return [_event(one) for one in self._client.items(path)][::-1]

    def statements(self, version: Named, kind: str | None = None) -> list[Statement]:
        path = _path(self._found(version), "statements")
        return [msgspec.convert(one, Statement) for one in self._client.items(path, kind=kind)]

    def checks(self, version: Named) -> list[Check]:
        path = _path(self._found(version), "checks")
        return [
            Check(msgspec.convert(one["statement"], Statement), one["brought_by"])
            for one in self._client.items(path)
        ]

    def tags(self, version: Named) -> dict[str, str]:
        said: dict[str, str] = self._client.ask("GET", _path(self._found(version), "tags"))
        return said

    def change_tags(
        self, version: Named, changes: Mapping[str, str | None], *, by: str
    ) -> dict[str, str]:
        path = _path(self._found(version), "tags")
        said: dict[str, str] = self._client.ask("PATCH", path, dict(changes), user=by)
        return said

    def set_alias(self, model: str, alias: str, number: int, *, by: str, reason: str = "") -> Event:
        check_name(alias, what="alias")
        body = {"number": number, "reason": reason}
        path = path_of("models", model, "aliases", alias)
        return _event(self._client.ask("PUT", path, body, user=by))

    def drop_alias(self, model: str, alias: str, *, by: str, reason: str = "") -> Event:
        path = path_of("models", model, "aliases", alias)
        return _event(self._client.ask("DELETE", path, user=by, reason=reason or None))

    def search(self, text: str, *, limit: int = 100) -> list[Found]:
        if limit < 1:
            raise Invalid(f"limit: {limit} is not >= 1")
        found = self._client.items(path_of("search"), query=text, limit=min(limit, PAGE))
        return [
            Found(_version(one["version"]), one["tags"], one["metrics"])
            for one in islice(found, limit)
        ]

    def compare(self, before: Named, after: Named) -> list[Change]:
        path = _path(self._found(before), "differences")
        changes = self._client.items(path, other=str(self._found(after)))
        return msgspec.convert(list(changes), list[Change])

    def retire(self, model: str, number: int, *, by: str, reason: str) -> Version:
        path = path_of("models", model, "versions", number, "retirement")
        return _version(self._client.ask("PUT", path, {"reason": reason}, user=by))

    def deprecate(
        self,
        model: str,
        number: int,
        *,
        by: str,
        sunset: datetime | None = None,
        successor: str = "",
        reason: str = "",
    ) -> Version:
        body = {
            "sunset": sunset and sunset.isoformat(), "successor": successor, "reason": reason
        }  # fmt: skip
        path = path_of("models", model, "versions", number, "deprecation")
        return _version(self._client.ask("PUT", path, body, user=by))

    def undeprecate(self, model: str, number: int, *, by: str, reason: str = "") -> Version:
        path = path_of("models", model, "versions", number, "deprecation")
        return _version(self._client.ask("DELETE", path, user=by, reason=reason or None))

    def servers_of(self, version: Version) -> list[str]:
        return list(self._client.items(_path(version, "servers")))

    def restore(self, model: str, number: int, *, by: str, reason: str = "") -> Version:
        path = path_of("models", model, "versions", number, "retirement")
        return _version(self._client.ask("DELETE", path, user=by, reason=reason or None))

    def _found(self, version: Named) -> Version:
        return version if isinstance(version, Version) else self.resolve(version)


class RemoteKeys:
    """See `keys.CatalogueKeys`. The server makes the keys; their hashes stay there."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def stored(self) -> list[Key]:
        return [_key(one) for one in self._client.items(path_of("keys"))]

    def create(
        self,
        name: str,
        permissions: Sequence[Permission],
        *,
        by: str,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        wanted = {
            "name": name,
            "permissions": [str(one) for one in permissions],
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        made = self._client.ask("POST", path_of("keys"), wanted, user=by)
        return _key(made), made["token"]

    def end(self, name: str, *, by: str) -> Key:
        return _key(self._client.ask("DELETE", path_of("keys", name), user=by))


def _version(said: object) -> Version:
    return msgspec.convert(said, Version)


def _event(said: object) -> Event:
    return msgspec.convert(said, Event)


def _path(version: Version, what: str) -> str:
    return path_of("models", version.model, "versions", version.number, what)


def _key(said: Mapping[str, Any]) -> Key:
    moments = ("created_at", "expires_at", "revoked_at")
    read = {name: said[name] and datetime.fromisoformat(said[name]) for name in moments}
    permissions = tuple(map(Permission.parse, said["permissions"]))
    known = {one.name: said[one.name] for one in fields(Key) if one.name in said}
    return Key(**{**known, **read, "permissions": permissions, "token_sha256": ""})
