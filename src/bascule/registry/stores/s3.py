"""Bundles in a bucket of S3, or of a store that speaks its protocol.

    PREFIX/HEX/bundle.json      the manifest; HEX is its SHA-256
    PREFIX/HEX/...              the files that it names, the card, statements/

The manifest is written last and removed first, and there is no object without it: so a bundle is
there whole, or not at all, whenever its writer is killed. Keys never change their bytes, so
writers of the same bundle do not disturb each other.

A copy of each bundle that was pushed or used here is kept in a local folder, verified. A
process that has one does not need the bucket: a server keeps running while it is away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bascule.core import Invalid, NotFound, Untrusted, sha256_bytes
from bascule.places import bounded_stream, connect, explaining
from bascule.registry.stores.files import Files, checked_name

_MANIFEST = "bundle.json"
_OWNER = "owner"
_STATEMENTS = "statements/"
_HEX = re.compile(r"[0-9a-f]{64}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_MANIFEST_BYTES = 64 << 20
_MAX_STATEMENT_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_MANY = 1_000


def open_objects(url: str, home: Path) -> S3Objects:
    """The objects at `s3://BUCKET/PREFIX`; their local copies are in `home`/cache.

    Credentials, region and endpoint come from where every client of S3 looks for them:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, instance roles.

    Raises:
        Invalid: The address cannot be read.
        MissingExtra: The client is not installed.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.username or parts.password or parts.query or not _BUCKET.fullmatch(parts.netloc):
        raise Invalid(
            "registry.objects is not a place in S3",
            hint="write s3://BUCKET/PREFIX; credentials and endpoint come from AWS_* variables",
        )
    return S3Objects(parts.netloc, parts.path.strip("/"), home / "cache")


class S3Objects:
    """Objects under `prefix` of a bucket that exists, with local copies in the folder `cache`."""

    def __init__(self, bucket: str, prefix: str, cache: Path) -> None:
        self.place = f"s3://{bucket}/{prefix}".rstrip("/")
        self._store = connect(bucket, prefix)
        self._cache = Files(cache)

    def put(self, digest: str, source: Path, files: Mapping[str, str | None]) -> None:
        # The local copy is verified while it is made, and is read-only after: the
        # bytes that are sent are those that were verified.
        self._cache.put(digest, source, files)
        copy = self._cache.path(digest)
        with explaining(self.place):
            sizes = self._sizes(digest)
            for name in sorted(files, key=lambda name: name == _MANIFEST):
                # What no digest covers may not be in a copy that was made before.
                file = (source if files[name] is None else copy) / name
                if not self._is_there(digest, name, files[name], file, sizes):
                    self._api.put(self._store, _key(digest, name), file)

    def owner(self, claim: str) -> str:
        from obstore.exceptions import AlreadyExistsError

        with explaining(self.place):
            with suppress(AlreadyExistsError):
                self._api.put(self._store, _OWNER, claim.encode(), mode="create")
            return bytes(self._api.get(self._store, _OWNER).bytes()).decode()

    def put_statement(self, digest: str, name: str, content: bytes) -> None:
        with explaining(self.place):
            try:
                self._api.head(self._store, _key(digest, _MANIFEST))
            except FileNotFoundError:
                raise self._missing(digest) from None
            self._api.put(self._store, _key(digest, _STATEMENTS + name), content)
        if self._cache.has(digest):
            self._cache.put_statement(digest, name, content)

    def path(self, digest: str) -> Path:
        try:
            return self._cache.path(digest)
        except (NotFound, Untrusted):
            pass  # no copy yet, or a damaged one: take it from the bucket
        with explaining(self.place):
            manifest = self._read(digest, _MANIFEST, limit=_MAX_MANIFEST_BYTES)
            if manifest is None:
                raise self._missing(digest)
            entries = self._entries(digest, manifest)
            files: dict[str, str | None] = {
                **{name: sha256 for name, (sha256, _) in entries.items()},
                _MANIFEST: digest,
            }
            loose = {_MANIFEST: manifest, **self._uncovered(digest, files)}

            def fill(partial: Path) -> None:
                for name, content in loose.items():
                    target = partial / checked_name(name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                for name, (sha256, size) in entries.items():
                    self._download(digest, name, partial / checked_name(name), sha256, size)

            self._cache.put_filled(digest, files, fill)
            for name, content in self._statements(digest):
                self._cache.put_statement(digest, name, content)
        return self._cache.path(digest)

    def digests(self) -> dict[str, datetime]:
        with explaining(self.place):
            found: dict[str, datetime] = {}
            for one in bounded_stream(self.place, self._api.list(self._store, chunk_size=_MANY)):
                head = one["path"].split("/")[0]
                if _HEX.fullmatch(head):
                    digest, at = f"sha256:{head}", one["last_modified"]
                    found[digest] = max(at, found.get(digest, at))
            return found

    def size_bytes(self, digest: str) -> int:
        with explaining(self.place):
            return sum(self._sizes(digest).values())

    def remove(self, digest: str) -> None:
        with explaining(self.place):
            self._api.delete(self._store, _key(digest, _MANIFEST))
            left = list(self._sizes(digest))
            for start in range(0, len(left), _MANY):
                batch = left[start : start + _MANY]
                self._api.delete(self._store, [_key(digest, name) for name in batch])
        self._cache.remove(digest)

    @property
    def _api(self) -> Any:
        import obstore

        return obstore

    def _sizes(self, digest: str) -> dict[str, int]:
        """Every key under a digest, relative to it."""
        prefix = _key(digest, "")
        pages = self._api.list(self._store, prefix.rstrip("/"), chunk_size=_MANY)
        return {
            one["path"].removeprefix(prefix): one["size"]
            for one in bounded_stream(self.place, pages)
        }

    def _is_there(
        self, digest: str, name: str, expected: str | None, file: Path, sizes: Mapping[str, int]
    ) -> bool:
        if sizes.get(name) != file.stat().st_size:
            return False
        if expected is None:
            return True
        found = hashlib.sha256()
        for chunk in self._api.get(self._store, _key(digest, name)).stream():
            found.update(chunk)
        return "sha256:" + found.hexdigest() == expected

    def _read(self, digest: str, name: str, *, limit: int) -> bytes | None:
        try:
            got = self._api.get(self._store, _key(digest, name))
        except FileNotFoundError:
            return None
        if got.meta["size"] > limit:
            raise Untrusted(f"{self.place}: {name} of {digest} is too large to be one", file=name)
        return bytes(got.bytes())

    def _entries(self, digest: str, manifest: bytes) -> dict[str, tuple[str, int]]:
        """The files that a manifest names, each with its digest and size."""
        found = sha256_bytes(manifest)
        if found != digest:
            raise Untrusted(
                f"{_MANIFEST} of {digest} in {self.place} was altered: its digest is not the one "
                "it is kept under",
                hint="push the bundle again, from a copy of it; that replaces the altered files",
                file=_MANIFEST,
                expected=digest,
                found=found,
            )
        return {
            str(name): (str(entry["sha256"]), int(entry["bytes"]))
            for name, entry in json.loads(manifest)["files"].items()
        }

    def _uncovered(self, digest: str, covered: Mapping[str, object]) -> dict[str, bytes]:
        """What lies beside a bundle and no digest covers: the card."""
        found = {}
        for name in self._sizes(digest):
            if name not in covered and not name.startswith(_STATEMENTS):
                content = self._read(digest, name, limit=_MAX_STATEMENT_BYTES)
                if content is not None:
                    found[name] = content
        return found

    def _download(self, digest: str, name: str, target: Path, sha256: str, size: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        found, length = hashlib.sha256(), 0
        try:
            stream = self._api.get(self._store, _key(digest, name)).stream(_CHUNK_BYTES)
        except FileNotFoundError:
            raise Untrusted(
                f"{name} of {digest} is missing from {self.place}",
                hint="push the bundle again, from a copy of it; that replaces what is missing",
                file=name,
            ) from None
        with target.open("xb") as writer:
            for chunk in stream:
                length += len(chunk)
                if length > size:
                    break
                found.update(chunk)
                writer.write(chunk)
        if length != size or "sha256:" + found.hexdigest() != sha256:
            raise Untrusted(
                f"{name} of {digest} in {self.place} was altered: it is not what was pushed",
                hint="push the bundle again, from a copy of it; that replaces the altered files",
                file=name,
                expected=sha256,
            )

    def _statements(self, digest: str) -> Iterator[tuple[str, bytes]]:
        for name in self._sizes(digest):
            own = name.removeprefix(_STATEMENTS)
            if name.startswith(_STATEMENTS) and re.fullmatch(r"[\w-]+\.json", own):
                content = self._read(digest, name, limit=_MAX_STATEMENT_BYTES)
                if content is not None:
                    yield own, content

    def _missing(self, digest: str) -> NotFound:
        return NotFound(
            f"the files of {digest} are missing from {self.place}",
            hint="push the bundle again, from a copy of it",
            digest=digest,
        )


def _key(digest: str, name: str) -> str:
    return f"{digest.removeprefix('sha256:')}/{name}"
