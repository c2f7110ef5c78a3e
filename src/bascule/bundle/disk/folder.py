"""The bundle on disk: read, verified and written here, and nowhere else.

    bundle.json            the manifest: canonical JSON; its SHA-256 is the bundle's digest
    original/ programs/ data/ environment.txt      listed in the manifest with size and digest
    card.md                rendered for people; not covered by the digest
    statements/*.json      records about the bundle that may change; each names the digest

Rules that this module keeps:

- Nothing of a bundle is parsed by a runtime or a framework before its bytes have been compared
  with the manifest, and the bytes that were compared are the bytes that are used.
- A manifest can name only plain files inside its folder, and the folder holds no other file.
- A bundle is written beside its place and renamed into it: it is there whole, or not at all.
- Every document that is read has its declared type, or is refused; see `reading`.
- Reading needs numpy, msgspec and the standard library alone, so a serving worker stays small.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from bascule.bundle.disk.bodies import check_body
from bascule.bundle.disk.limits import (
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_STATEMENT_BYTES,
    MAX_STATEMENTS,
)
from bascule.bundle.disk.manifest import (
    CARD,
    MANIFEST,
    ORIGINAL,
    SCHEMA_VERSION,
    STATEMENTS,
    FileEntry,
    Manifest,
    Statement,
)
from bascule.bundle.disk.reading import parse, reading, shaped
from bascule.core import (
    Conflict,
    Invalid,
    NotFound,
    Scratch,
    Untrusted,
    canonical_json,
    check_name,
    drafts_of,
    is_file_name,
    is_inside,
    is_there,
    replacing,
    sha256_bytes,
    sha256_file,
    sweep,
    writing,
)

_OWN_NAME = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{12}\.json")

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read_manifest(path: str | Path, *, verify: bool = True) -> Manifest:
    """The manifest of the bundle at `path`, checked together with every file that it names.

    Args:
        path: The bundle's folder.
        verify: Whether to compare the digest of every file. Paths, sizes and the absence of
            strange files are checked in any case.

    Raises:
        NotFound: There is no bundle at `path`.
        Untrusted: The manifest cannot be read, is of a newer schema, names a file outside of its
            folder, or a file is missing, strange, or not what the manifest says.
    """
    path = Path(path)
    manifest = parse_manifest(path)
    for name, entry in manifest.files.items():
        _check_file(path, name, entry)
    _refuse_strangers(path, manifest)
    if verify:
        for name, entry in manifest.files.items():
            if sha256_file(path / name) != entry.sha256:
                raise _altered(path, name)
    return manifest


def digest_of(path: str | Path) -> str:
    """The digest of the bundle at `path`: of the manifest's bytes as they are on disk."""
    return sha256_bytes(_manifest_bytes(Path(path)))


def read_file(path: str | Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of one file, after they were found to be those that the manifest names."""
    path = Path(path)
    try:
        entry = manifest.files[name]
    except KeyError:
        raise _refused(path, name, f"bundle {path} has no file {name} in its manifest") from None
    _check_file(path, name, entry)
    data = (path / name).read_bytes()
    if sha256_bytes(data) != entry.sha256:
        raise _altered(path, name)
    return data


def read_statements(path: str | Path, kind: str | None = None) -> list[Statement]:
    """The statements beside the bundle that speak of its digest, oldest first."""
    found = [one for one in statements_by_file(path).values() if kind in (None, one.kind)]
    return sorted(found, key=lambda statement: (statement.at, statement.file_name))


def statements_by_file(path: str | Path) -> dict[str, Statement]:
    """The same by the names of their files, which need not be those that Bascule gives.

    A name that Bascule gives holds a digest of the content. Where the content is another one, the
    statement was altered, and is passed over with a warning.
    """
    subject = digest_of(path)
    found = {}
    folder = Path(path) / STATEMENTS
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if len(files) > MAX_STATEMENTS:
        raise Untrusted(f"{folder} holds {len(files):,} files, and {MAX_STATEMENTS:,} may be")
    for file in files:
        statement, name = _parse_statement(file)
        if _OWN_NAME.fullmatch(file.name) and file.name != name:
            import logging  # a megabyte, which a device that only answers has no use for

            logging.getLogger(__name__).warning(
                "statement %s is passed over: it is not what it was when it was named", file
            )
        elif statement.subject == subject:
            found[file.name] = statement
    return found


def statements_changed_ns(path: str | Path) -> int:
    """A number that changes when a statement is written; 0 where there is none."""
    try:
        return os.stat(Path(path) / STATEMENTS).st_mtime_ns
    except FileNotFoundError:
        return 0


def write_statement(
    path: str | Path, kind: str, body: Mapping[str, Any], *, at: datetime | None = None, by: str
) -> Statement:
    """Put a statement beside the bundle. Saying the same thing twice keeps one file.

    Args:
        path: The bundle's folder.
        kind: One word in small letters: parity, cost, provenance, gates...
        body: JSON values.
        at: When; now, if None. Must carry a time zone.
        by: Who says so.

    Raises:
        Invalid: The kind is no such word, or the bundle's folder cannot be written.
        Untrusted: Bascule itself makes statements of that kind, and of another shape.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
        raise Invalid(f"statement kind {kind!r} is not a word of small letters")
    check_body(kind, body, f"the {kind} statement")
    moment = datetime.now(UTC) if at is None else at.astimezone(UTC)
    statement = Statement(kind, digest_of(path), moment.isoformat(), by, body)
    write_beside(path, statement.file_name, canonical_json(statement.to_json()))
    return statement


def write_beside(path: str | Path, name: str, data: bytes) -> None:
    """Write a file of `statements/`.

    Raises:
        Invalid: The bundle's folder cannot be written.
    """
    target = Path(path) / STATEMENTS / name
    hint = "copy the bundle to a folder that you may write to"
    with writing(target, hint=hint):
        target.parent.mkdir(exist_ok=True)
    with replacing(target, hint=hint) as draft:
        draft.write_bytes(data)
        draft.chmod(0o644)


@contextmanager
def drafting(to: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to build a bundle in; it becomes `to` when the block ends without an error.

    Raises:
        Conflict: `to` exists, and `overwrite` is False or it is not a bundle.
        Invalid: Nothing can be made there.
    """
    to = Path(to)
    with writing(to):
        _check_place(to, overwrite=overwrite)
        to.parent.mkdir(parents=True, exist_ok=True)
        _put_back(to)
        scratch = drafts_of(to)
        draft = scratch.path
    try:
        yield draft
        with writing(to):
            draft.chmod(0o755)
            _check_place(to, overwrite=overwrite)
            if to.exists():
                _swap(draft, to)
            else:
                draft.rename(to)
    finally:
        scratch.remove()


def write_file(draft: Path, name: str, data: bytes) -> FileEntry:
    """Put one file into a draft; returns its entry for the manifest."""
    target = draft / name
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return FileEntry(sha256_bytes(data), len(data))


def copy_file(draft: Path, name: str, source: Path) -> FileEntry:
    """Put a copy of a file into a draft, however large it is; returns its entry."""
    target = draft / name
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return FileEntry(sha256_file(target), target.stat().st_size)


def check_file(path: str | Path, manifest: Manifest, name: str) -> None:
    """Raise `Untrusted` where a file is not the one that the manifest names; it is not kept."""
    _check_file(Path(path), name, entry := manifest.files[name])
    if sha256_file(Path(path) / name) != entry.sha256:
        raise _altered(Path(path), name)


def write_manifest(draft: Path, manifest: Manifest) -> None:
    """Seal a draft: from here on its digest is known."""
    with writing(draft / MANIFEST):
        (draft / MANIFEST).write_bytes(canonical_json(manifest.to_json()))


def _manifest_bytes(path: Path) -> bytes:
    file = path / MANIFEST
    if not is_there(file, Path.is_file):
        raise NotFound(
            f"there is no bundle at {path}: {MANIFEST} is missing",
            hint="give the folder that bascule.pack wrote",
            path=str(path),
        )
    if file.is_symlink():
        raise Untrusted(f"{MANIFEST} of bundle {path} is a symbolic link", file=MANIFEST)
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise Untrusted(
            f"{MANIFEST} of bundle {path} has more than {MAX_MANIFEST_BYTES:,} bytes, which is too "
            "large to be one",
            file=MANIFEST,
            limit=MAX_MANIFEST_BYTES,
        )
    return file.read_bytes()


def parse_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path` alone: no file that it names is looked at.

    Raises as `read_manifest`.
    """
    data = _manifest_bytes(path)
    file = f"{MANIFEST} of bundle {path}"
    value = parse(data, file, what="a manifest")
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        if type(version) is not int:
            raise Untrusted(f"{file} is not a manifest", path=str(path), file=MANIFEST)
        raise Untrusted(
            f"bundle {path} has schema version {version}, and this bascule reads up to "
            f"{SCHEMA_VERSION}",
            hint="update bascule",
            file=MANIFEST,
        )
    try:
        with reading(MANIFEST, what="a manifest"):
            manifest = Manifest.from_json(value)
            check_sense(manifest)
            is_canonical = canonical_json(value) == data
    except (Invalid, Untrusted) as problem:
        raise Untrusted(f"{file} is damaged: {problem}", path=str(path), file=MANIFEST) from None
    if not is_canonical:
        raise Untrusted(f"{file} is not in canonical form", file=MANIFEST)
    if manifest.serves != ORIGINAL and manifest.served is None:
        raise Untrusted(
            f"bundle {path} serves {manifest.serves!r}, which is none of its programs",
            file=MANIFEST,
        )
    return replace(manifest, digest_on_disk=sha256_bytes(data))


def check_sense(manifest: Manifest) -> None:
    """Raise `Invalid` when parts of a manifest do not fit together, as in no honest bundle."""
    check_name(manifest.name)
    if len(manifest.files) > MAX_FILES:
        raise Invalid(f"it names {len(manifest.files):,} files, and {MAX_FILES:,} may be")
    signature = manifest.signature
    for what, names in (
        ("input", [field.name for field in signature.inputs]),
        ("output", [field.name for field in signature.outputs]),
        ("program", [program.name for program in manifest.programs]),
    ):
        if len(set(names)) != len(names):
            raise Invalid(f"it has two {what}s of one name")
    fields = [*signature.inputs, *signature.outputs]
    for program in manifest.programs:
        fields += program.inputs
        if [read.name for read in program.inputs] != [read.name for read in signature.inputs]:
            raise Invalid(f"program {program.name!r} has other inputs than the signature")
    for read in fields:
        if any(length < -1 for length in read.shape):
            raise Invalid(f"field {read.name!r} has the shape {list(read.shape)}")
    named = [manifest.original.file, *(program.file for program in manifest.programs)]
    missing = [name for name in named if name not in manifest.files]
    if missing:
        raise Invalid(f"it lists no file {missing[0]}")


def _check_file(path: Path, name: str, entry: FileEntry) -> None:
    pure = PurePosixPath(name)
    if (
        not (is_inside(name) and is_file_name(name))
        or name in (MANIFEST, CARD)
        or pure.parts[0] == STATEMENTS
        or not _DIGEST.fullmatch(entry.sha256)
        or entry.bytes < 0
    ):
        said = f"{MANIFEST} of bundle {path} names {name!r}, which cannot be a file of it"
        raise _refused(path, name, said)
    at = path
    for part in pure.parts:
        at = at / part
        if at.is_symlink():
            raise _refused(path, name, f"{name} of bundle {path} is a symbolic link")
    if not at.is_file():
        raise _refused(path, name, f"{name} of bundle {path} is missing")
    if (size := at.stat().st_size) != entry.bytes:
        said = f"{name} of bundle {path} has {size} bytes, and {entry.bytes} when it was sealed"
        hint = "the file was altered or cut short; take the bundle from its source again"
        raise _refused(path, name, said, hint)


def _refuse_strangers(path: Path, manifest: Manifest) -> None:
    known = {MANIFEST, CARD, *manifest.files}
    if (path / CARD).is_symlink():
        raise _refused(path, CARD, f"{CARD} of bundle {path} is a symbolic link")
    for root, folders, files in os.walk(path):
        inside = Path(root).relative_to(path)
        if inside == Path():
            folders[:] = [folder for folder in folders if folder != STATEMENTS]
            if (path / STATEMENTS).is_symlink():
                raise Untrusted(f"{STATEMENTS} of bundle {path} is a symbolic link")
        for folder in folders:
            if (Path(root) / folder).is_symlink():
                raise Untrusted(f"{(inside / folder).as_posix()} of bundle {path} is a link")
        for file in files:
            name = (inside / file).as_posix()
            if name not in known:
                said = f"bundle {path} holds {name}, which is not in its manifest"
                raise _refused(path, name, said, "remove the file if it is yours")


def _altered(path: Path, name: str) -> Untrusted:
    said = f"{name} of bundle {path} is not the file that was sealed"
    hint = "the file was altered; take the bundle from its source again, or pack it anew"
    return _refused(path, name, said, hint)


def _refused(path: Path, name: str, said: str, hint: str = "") -> Untrusted:
    return Untrusted(said, hint=hint, path=str(path), file=name)


def _parse_statement(file: Path) -> tuple[Statement, str]:
    """A statement, and the name that Bascule gives to what the file holds."""
    if file.is_symlink():
        raise Untrusted(f"statement {file} is a symbolic link", file=file.name)
    if not file.is_file():
        raise Untrusted(f"statement {file} is no plain file", file=file.name)
    if file.stat().st_size > MAX_STATEMENT_BYTES:
        raise Untrusted(
            f"statement {file} has more than {MAX_STATEMENT_BYTES:,} bytes", file=file.name
        )
    value = parse(file.read_bytes(), file.name, what="a statement")
    statement = shaped(value, Statement, file.name, what="a statement")
    check_body(statement.kind, statement.body, file.name)
    digest = sha256_bytes(canonical_json(value)).removeprefix("sha256:")
    return statement, f"{statement.kind}-{digest[:12]}.json"


def _check_place(to: Path, *, overwrite: bool) -> None:
    if to.name in ("", ".."):
        raise Invalid(f"{to} names no folder of its own", hint=f"add a name: {to / 'NAME'}")
    if not to.exists() and not to.is_symlink():
        return
    if not overwrite:
        raise Conflict(
            f"{to} exists already",
            hint="choose another place, or remove it; pack replaces a bundle with --overwrite",
            path=str(to),
        )
    if to.is_symlink() or not (to / MANIFEST).is_file():
        raise Conflict(
            f"{to} exists and is not a bundle, so it is not overwritten",
            hint="choose another place, or remove it yourself",
            path=str(to),
        )


def _swap(draft: Path, to: Path) -> None:
    with Scratch(f".{to.name}.", suffix=".replaced", parent=to.parent) as aside:
        to.rename(aside / "bundle")
        try:
            draft.rename(to)
        except OSError:
            (aside / "bundle").rename(to)
            raise


def _put_back(to: Path) -> None:
    """Bring back what a process that was killed had moved aside."""

    def remove(aside: Path) -> None:
        if not to.exists() and (aside / "bundle").is_dir():
            (aside / "bundle").rename(to)
        shutil.rmtree(aside, ignore_errors=True)

    sweep(to.parent, f".{glob.escape(to.name)}.????????.replaced", remove)
