"""Locks what a model needs: distributions with exact versions, and the Python they ran under."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
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
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = installed.version
        for requirement in installed.requires or ():
            match = _NAME.match(requirement)
            if match is not None and "extra ==" not in requirement.replace('"', "'"):
                waiting.append(match.group())
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join([f"# python {platform.python_version()}", *lines]) + "\n"
