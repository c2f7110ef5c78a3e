"""A registry over the control API of a server. Rules are kept there; here values are read back.

Bundles are downloaded as the archives of `oci`, verified, and kept until the process ends.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from bascule.bundle.disk import (
    PASSPORT,
    Statement,
    check_claims,
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
from bascule.operations import Remote
from bascule.registry import operations
from bascule.registry.differences import Change
from bascule.registry.oci import Cargo, read_archive, write_archive
from bascule.registry.versions import (
    Check,
    Event,
    Found,
    Model,
    Named,
    Version,
    models_table,
)
from bascule.security import Key, Permission
from bascule_client.control import PAGE, ControlClient

if TYPE_CHECKING:
    from bascule.registry.keys import CatalogueKeys
    from bascule.registry.registry import Registry

T = TypeVar("T")
ModelRegistry: TypeAlias = "Registry | RemoteRegistry"
"""What commands do with a registry, here or over a server; see `Registry` for the methods."""
Keys: TypeAlias = "CatalogueKeys | RemoteKeys"
"""What commands do with keys; see `CatalogueKeys`."""


class RemoteRegistry(Remote):
    """See `Registry`."""

    def __init__(
        self,
        client: ControlClient,
        *,
        required_keys: Sequence[Path] = (),
        required_claims: Sequence[str] = (),
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: The server, and the caller's key.
            required_keys: Files of public keys, one of which must have signed what is used here.
            required_claims: What a passport by one of these keys must claim of it.
        """
        super().__init__(client)
        self._required_keys = tuple(required_keys)
        self._required_claims = tuple(required_claims)
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
        path = operations.PUSH.at(model=model)
        return operations.PUSH.read(self._client.upload(path, file, user=by))

    def export(self, version: Named, target: Path, *, overwrite: bool = False) -> str:
        found = self._found(version)
        check_replaceable(target)
        if target.exists() and not overwrite:
            raise Conflict(f"{target} exists already", hint="choose another name, or --overwrite")
        with replacing(target) as draft:
            return self._download(found, draft)

    def _download(self, version: Version, target: Path) -> str:
        return self._client.download(operations.BUNDLE.at(**self._named(version)), target)

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
        if self._required_claims:
            check_claims(
                self.statements(found, PASSPORT), found.digest, self._required_keys,
                self._required_claims, about=str(found), now=datetime.now(UTC),
            )  # fmt: skip
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
                self._download(found, archive)
                draft.mkdir()
                read_archive(archive, draft)
                if digest_of(draft) != found.digest:
                    raise Untrusted(
                        f"the server sent another bundle than {found}",
                        hint="check the server and what is between",
                    )
        return folder

    def resolve(self, reference: Reference | str, *, retired: bool = False) -> Version:
        named = Reference.parse(reference) if isinstance(reference, str) else reference
        model, number = named.model, named.number
        if retired and number is not None:
            return self.ask(operations.VERSION, model=model, number=number)
        return self.ask(operations.RESOLVE, model=model, number=number, alias=named.alias)

    def models(self) -> list[Model]:
        return self.items(operations.MODELS)

    def versions(self, model: str) -> list[Version]:
        return self.items(operations.VERSIONS, model=model)[::-1]

    def history(self, model: str) -> list[Event]:
        return self.items(operations.HISTORY, model=model)[::-1]

    def statements(self, version: Named, kind: str | None = None) -> list[Statement]:
        return self.items(operations.STATEMENTS, **self._named(version), kind=kind)

    def checks(self, version: Named) -> list[Check]:
        return self.items(operations.CHECKS, **self._named(version))

    def tags(self, version: Named) -> dict[str, str]:
        return self.ask(operations.TAGS, **self._named(version))

    def change_tags(
        self, version: Named, changes: Mapping[str, str | None], *, by: str
    ) -> dict[str, str]:
        return self.ask(operations.CHANGE_TAGS, changes, by=by, **self._named(version))

    def set_alias(self, model: str, alias: str, number: int, *, by: str, reason: str = "") -> Event:
        check_name(alias, what="alias")
        body = {"number": number, "reason": reason}
        return self.ask(operations.SET_ALIAS, body, by=by, model=model, alias=alias)

    def drop_alias(self, model: str, alias: str, *, by: str, reason: str = "") -> Event:
        why = reason or None
        return self.ask(operations.DROP_ALIAS, by=by, model=model, alias=alias, reason=why)

    def search(self, text: str, *, limit: int = 100) -> list[Found]:
        if limit < 1:
            raise Invalid(f"limit: {limit} is not >= 1", hint="ask for 1 or more")
        found = self.each(operations.SEARCH, query=text, limit=min(limit, PAGE))
        return list(islice(found, limit))

    def compare(self, before: Named, after: Named) -> list[Change]:
        other = str(self._found(after))
        return self.items(operations.DIFFERENCES, **self._named(before), other=other)

    def retire(self, model: str, number: int, *, by: str, reason: str) -> Version:
        return self.ask(operations.RETIRE, {"reason": reason}, by=by, model=model, number=number)

    def deprecate(
        self, model: str, number: int, *, by: str, sunset: datetime | None = None,
        successor: str = "", reason: str = "",
    ) -> Version:  # fmt: skip
        body = {"sunset": sunset, "successor": successor, "reason": reason}
        return self.ask(operations.DEPRECATE, body, by=by, model=model, number=number)

    def undeprecate(self, model: str, number: int, *, by: str, reason: str = "") -> Version:
        why = reason or None
        return self.ask(operations.UNDEPRECATE, by=by, model=model, number=number, reason=why)

    def servers_of(self, version: Version) -> list[str]:
        return self.items(operations.SERVERS, **self._named(version))

    def restore(self, model: str, number: int, *, by: str, reason: str = "") -> Version:
        why = reason or None
        return self.ask(operations.RESTORE, by=by, model=model, number=number, reason=why)

    def _named(self, version: Named) -> dict[str, Any]:
        found = self._found(version)
        return {"model": found.model, "number": found.number}

    def _found(self, version: Named) -> Version:
        return version if isinstance(version, Version) else self.resolve(version)


class RemoteKeys(Remote):
    """See `keys.CatalogueKeys`. The server makes the keys; their hashes stay there."""

    def stored(self) -> list[Key]:
        return self.items(operations.KEYS)

    def create(
        self, name: str, permissions: Sequence[Permission], *, by: str,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:  # fmt: skip
        allowed = [str(one) for one in permissions]
        body = {"name": name, "permissions": allowed, "expires_at": expires_at}
        return self.ask(operations.CREATE_KEY, body, by=by)

    def end(self, name: str, *, by: str) -> Key:
        return self.ask(operations.REVOKE_KEY, by=by, key=name)
