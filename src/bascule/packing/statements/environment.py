"""Locks what a model needs: distributions with exact versions, and the Python they ran under."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError

from bascule.bundle.originals import installed


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
            found[name], requirements = installed(name)
        except PackageNotFoundError:
            continue
        waiting += requirements
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join([f"# python {platform.python_version()}", *lines]) + "\n"
