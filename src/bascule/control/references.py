"""References to versions: what is named on a command line, by a caller, or by an alias.

What opens the registry is given, so that a folder can be found without one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bascule.core import Invalid, NotFound, Reference, Refused, is_there
from bascule.serving import ModelSpec, Notice

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.registry import ModelRegistry, Registry, Version

R = TypeVar("R", bound="ModelRegistry")
SERVED_ALIASES = ("production", "champion")
"""What `bascule up` serves of each model: the first alias that the model has."""

_VERSION_DIGITS = 7
"""Of hexadecimal: the number fits into 32 bits with a sign."""


def is_path(reference: str) -> bool:
    """Whether a reference is meant as a folder: `gb/1` is a version unless a bundle is there."""
    written_so = reference.startswith((".", "/", "~")) or reference.endswith("/")
    return written_so or is_there(Path(reference) / "bundle.json", Path.is_file)


def named_folder(reference: str) -> tuple[Reference, Path] | None:
    """`late/3=/models/late`: a folder, and the name and number that its bundle is served under.

    An image has a bundle as a folder, and no registry that knows its number. None for other
    references.

    Raises:
        Invalid: What is before `=` is not `MODEL/NUMBER`.
    """
    named, equals, folder = reference.partition("=")
    if not equals or not folder or is_path(reference):
        return None
    version = Reference.parse(named)
    if version.number is None:
        raise Invalid(
            f"{reference!r} does not say which version the folder is",
            hint=f"write MODEL/NUMBER=FOLDER: {version.model}/1={folder}",
        )
    return version, Path(folder)


def registered(open_registry: Callable[[], R], reference: str) -> tuple[R, Version]:
    """A version of the registry.

    Raises:
        NotFound: There is none; or a file or folder of that name, which may have been meant.
    """
    try:
        registry = open_registry()
        return registry, registry.resolve(reference)
    except (Invalid, NotFound) as problem:
        path = Path(reference)
        if not is_there(path):
            raise
        kind, hint = "folder", "give the folder that bascule pack wrote"
        if path.is_file():
            kind, hint = "file", f"bascule pack {reference} --name NAME makes a bundle of a model"
        raise NotFound(
            f"{reference} is a {kind} and no bundle, and as the name of a model: {problem}",
            hint=hint,
            path=reference,
        ) from None


def spec_of(reference: str, open_registry: Callable[[], Registry]) -> ModelSpec:
    """The version that a reference means; one of the registry is verified."""
    if is_path(reference):
        return spec_of_folder(Path(reference))
    registry, version = registered(open_registry, reference)
    alias = reference.partition("@")[2]
    labels = (alias,) if alias else ()
    notice = notice_of(version, datetime.now(UTC))
    path = registry.path(version)
    return ModelSpec(version.model, str(version.number), path, labels, notice=notice)


def notice_of(version: Version, now: datetime) -> Notice | None:
    """What answers of a version announce; None where it is not deprecated."""
    said = version.deprecated
    if said is None:
        return None
    sunset_s = None if said.sunset is None else int(said.sunset.timestamp())
    return Notice(int(said.at.timestamp()), sunset_s, said.successor, said.has_ended(now))


def versions_of(
    reference: str, open_registry: Callable[[], ModelRegistry]
) -> tuple[str, Callable[[str], Bundle | None]]:
    """A model's name in the ledger, and what opens the bundle of a version there.

    The name of a model means all its versions; `gb/3`, `gb@champion` and a folder mean one. A
    version that the reference does not mean is None; one that is gone or broken is raised.
    """
    from bascule.bundle import load

    if is_path(reference):
        folder = Path(reference)
        spec = spec_of_folder(folder)
        return spec.model, lambda version: load(folder) if version == spec.version else None
    registry, meant = registered(open_registry, reference)
    is_one = reference != meant.model

    def bundle_of(version: str) -> Bundle | None:
        if not version.isdecimal() or (is_one and version != str(meant.number)):
            return None
        return load(registry.path(f"{meant.model}/{version}"))

    return meant.model, bundle_of


def spec_of_folder(folder: Path, named: Reference | None = None) -> ModelSpec:
    """The bundle in a folder, not verified; under its own name, or under another."""
    from bascule.bundle.disk import read_manifest

    manifest = read_manifest(folder, verify=False)
    if named is not None:
        return ModelSpec(named.model, str(named.number), folder.resolve())
    return ModelSpec(manifest.name, version_of(manifest.digest), folder.resolve())


def version_of(digest: str) -> str:
    """The version of a bundle that is in no registry: a number, from the start of its digest.

    Clients of TensorFlow Serving and Triton read versions as numbers. Another bundle has another
    number.
    """
    return str(int(digest.removeprefix("sha256:")[:_VERSION_DIGITS], 16))


def aliased(open_registry: Callable[[], Registry]) -> list[str]:
    """References to all versions that `SERVED_ALIASES` name, by the model's name."""
    try:
        models = open_registry().models()
    except NotFound:
        return []  # nothing was ever pushed
    named = (
        (model.name, next((alias for alias in SERVED_ALIASES if alias in model.aliases), None))
        for model in models
    )
    return [f"{name}@{alias}" for name, alias in named if alias is not None]


def put_there(name: str, folder: Path) -> ModelSpec:
    """What a caller wants to have served under a name: the bundle that was put into a folder.

    The platform owns the folder that it fills, and no other user is in its container.
    """
    from bascule.bundle.disk import digest_of
    from bascule.platforms import bundle_in, look_for_bundles, platform_folder

    path = bundle_in(folder, look_for_bundles, "url")
    if not path.resolve().is_relative_to(platform_folder(os.environ) / "models"):
        check_is_ours(path)
    return ModelSpec(name, version_of(digest_of(path)), path)


def check_is_ours(folder: Path) -> None:
    """Refuse a folder that another user of this machine could have put there, or could change.

    A bundle may hold code, and whoever can reach the control port may name a folder. Nobody but
    this user (and root) is to have code run in this user's name.

    Raises:
        Refused: It belongs to somebody else, or others may write to it or on the way to it.
    """
    for place in (folder, *folder.resolve().parents):
        try:
            found = place.stat()
        except OSError:
            return  # loading it will say what is wrong
        if not may_be_trusted(found.st_uid, found.st_mode, os.getuid()):
            raise Refused(
                f"{folder} is not loaded: other users may write to {place}",
                hint="push it to the registry, or load it from a folder of the server's own user",
            )


def may_be_trusted(owner: int, mode: int, user: int) -> bool:
    """Whether only `user` and root decide what is in a folder; in a sticky one each has its own."""
    others_write = bool(mode & (stat.S_IWGRP | stat.S_IWOTH)) and not mode & stat.S_ISVTX
    return owner in (user, 0) and not others_write
