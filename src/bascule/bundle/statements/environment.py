"""Locks what a model needs: distributions with exact versions, and the Python they ran under."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def locked(names: Iterable[str]) -> str:
    """One line `name==version` for each distribution and all that they require, sorted.

    Optional requirements and those that are not installed are left out.
    """
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name], requirements = _installed(name)
        except PackageNotFoundError:
            continue
        waiting += requirements
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join([f"# python {platform.python_version()}", *lines]) + "\n"


def version_of(name: str) -> str:
    """The version of a distribution.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    return _installed(name)[0]


@cache
def _installed(name: str) -> tuple[str, tuple[str, ...]]:
    """The version of a distribution, and the names that it requires.

    Read once: the text takes milliseconds to parse, and a process runs the version that it loaded.
    """
    metadata = distribution(name).metadata
    requirements = metadata.get_all("Requires-Dist") or ()
    matches = [_NAME.match(one) for one in requirements if "extra ==" not in one.replace('"', "'")]
    return metadata["Version"], tuple(match.group() for match in matches if match is not None)
