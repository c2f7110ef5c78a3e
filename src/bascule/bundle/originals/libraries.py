"""What is installed of the libraries that models come from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from typing import Any

from bascule.bundle.disk import Manifest
from bascule.core import Untrusted

_distributions = cache(packages_distributions)  # reads the lists of files of all that is installed
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def distribution_of(package: str) -> str:
    """What brings a package: XGBoost comes under two names, with and without graphics parts."""
    return sorted(_distributions().get(package, [package]))[0]


def installed_version(name: str) -> str:
    """The version of a distribution, or the word `none`."""
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "none"


def check_versions(manifest: Manifest, names: Iterable[str]) -> None:
    """Raise `Untrusted` where one of the distributions has another version than it was saved with.

    Args:
        manifest: The bundle's.
        names: Some of those that its original requires.
    """
    for name in names:
        saved_with, found = manifest.original.requires[name], installed_version(name)
        if found != saved_with:
            raise Untrusted(
                f"{manifest.name} was saved with {name} {saved_with}, and {found} is installed",
                hint=f"pip install '{name}=={saved_with}', or pack the model again",
            )


def is_of(model: Any, home: str) -> bool:
    """Whether the model's class, or one that it is derived from, is of the package `home`."""
    return any(kind.__module__.partition(".")[0] == home for kind in type(model).__mro__)


def version_of(name: str) -> str:
    """The version of a distribution.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    return installed(name)[0]


@cache
def installed(name: str) -> tuple[str, tuple[str, ...]]:
    """The version of a distribution, and the names that it requires.

    Read once: the text takes milliseconds to parse, and a process runs the version that it loaded.
    """
    metadata = distribution(name).metadata
    requirements = metadata.get_all("Requires-Dist") or ()
    matches = [_NAME.match(one) for one in requirements if "extra ==" not in one.replace('"', "'")]
    return metadata["Version"], tuple(match.group() for match in matches if match is not None)
