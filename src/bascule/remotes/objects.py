"""What a place holds, and which of it is the bundle. Decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from bascule.bundle.disk import (
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_STATEMENT_BYTES,
    MAX_STATEMENTS,
    STATEMENTS,
)
from bascule.core import Conflict, Invalid, NotFound, TooLarge, Untrusted, is_file_name

MAX_OBJECTS = MAX_FILES + MAX_STATEMENTS + 2
"""The files of a bundle, its statements, the manifest and the card."""

_CHANGED_HINT = "start again; write another bundle to a place of its own, not over this one"


@dataclass(frozen=True, slots=True)
class Remote:
    """An object, as its place lists it.

    Attributes:
        name: Below the address of the place, with `/` between folders.
        size_bytes: Of its content.
        state: Another one whenever the content is another: a generation, an ETag.
    """

    name: str
    size_bytes: int
    state: str


class Writer(Protocol):
    """Takes what is read."""

    def write(self, data: bytes, /) -> int: ...


class Place(Protocol):
    """The objects under one address. Exceptions of its client are raised as a `BasculeError`.

    Transient failures are tried again by the client, for a bounded time.
    """

    def objects(self) -> Iterator[Remote]:
        """All of them. Raises `NotFound` where there is no such bucket."""

    def copy(self, one: Remote, into: Writer) -> None:
        """Write the content of an object; raises `Conflict` if it is not in its state any more."""


def choose(objects: Iterable[Remote], url: str) -> Mapping[str, Remote]:
    """The files of the one bundle that `url` is, or has directly in it, by their paths there.

    Args:
        objects: What is listed there; no more of it is read than may be taken.
        url: The address, for messages.

    Raises:
        NotFound: There is nothing, or no bundle.
        Invalid: There are several bundles.
        TooLarge: There are too many objects, or one is larger than what it should be can be.
        Untrusted: A name would lead out of the folder, or two would be one file.
    """
    found: dict[str, Remote] = {}
    for seen, one in enumerate(objects):
        if seen == MAX_OBJECTS:
            raise TooLarge(
                f"{url} holds more than {MAX_OBJECTS:,} objects, which is no bundle",
                hint="give the address of the bundle's own folder",
                limit=MAX_OBJECTS,
            )
        if not one.size_bytes and (not one.name or one.name.endswith("/")):
            continue  # what some tools leave for a folder
        _check_name(one.name, url)
        if one.name in found:
            raise Untrusted(f"{url} has two objects {one.name!r}", file=one.name)
        found[one.name] = one
    if not found:
        raise NotFound(
            f"there are no objects under {url}/",
            hint="copy there what bascule pack made: a folder with bundle.json",
        )
    for name in found:
        for folder in PurePosixPath(name).parents:
            if str(folder) in found:
                raise Untrusted(f"{str(folder)!r} of {url} is an object and a folder", file=name)
    root = _root(found, url)
    files = {name.removeprefix(root): one for name, one in found.items() if name.startswith(root)}
    for name, one in files.items():
        _check_size(name, one.size_bytes, url)
    return files


def no_bucket(url: str) -> NotFound:
    """The error of a bucket that is not there."""
    return NotFound(f"there is no bucket for {url}", hint="check the name of the bucket")


def changed(one: Remote, url: str) -> Conflict:
    """The error of an object that is not in its state any more."""
    return Conflict(
        f"{one.name} of {url} changed while the bundle was read", hint=_CHANGED_HINT, file=one.name
    )


def gone(one: Remote, url: str) -> Conflict:
    """The error of an object that was listed, and is not there any more."""
    return Conflict(
        f"{one.name} of {url} was removed while the bundle was read",
        hint=_CHANGED_HINT,
        file=one.name,
    )


def _check_name(name: str, url: str) -> None:
    pure = PurePosixPath(name)
    if (
        pure.is_absolute()
        or not pure.parts
        or ".." in pure.parts
        or str(pure) != name
        or "\\" in name
        or not name.isprintable()
        or not is_file_name(name)
    ):
        raise Untrusted(
            f"{url} has an object {name!r}, which cannot be a file of a bundle",
            hint="remove the object if it is yours, or give the address of the bundle's own folder",
            file=name,
        )


def _root(found: Mapping[str, Remote], url: str) -> str:
    """The folder of the bundle, with its `/`; empty where `url` is it."""
    if MANIFEST in found:
        return ""
    roots = sorted(
        folder + slash
        for folder, slash, name in (one.partition("/") for one in found)
        if name == MANIFEST
    )
    if not roots:
        raise NotFound(
            f"there is no bundle at {url}: {MANIFEST} is missing",
            hint="copy there what bascule pack made: a folder with bundle.json",
        )
    if len(roots) > 1:
        names = ", ".join(root.rstrip("/") for root in roots)
        raise Invalid(
            f"there are several bundles at {url}: {names}",
            hint=f"name the one that is meant: {url}/{roots[0].rstrip('/')}",
        )
    return roots[0]


def _check_size(name: str, size_bytes: int, url: str) -> None:
    what, limit = "", 0
    if name == MANIFEST:
        what, limit = "a manifest", MAX_MANIFEST_BYTES
    elif name.startswith(f"{STATEMENTS}/"):
        what, limit = "a statement", MAX_STATEMENT_BYTES
    if what and size_bytes > limit:
        raise TooLarge(
            f"{name} of {url} has {size_bytes:,} bytes, which is too large to be {what}",
            file=name,
            limit=limit,
        )
