"""What flavors ask of the libraries that their models come from."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions
from typing import Any

from bascule.bundle.statements import environment
from bascule.core import MissingExtra


def library(name: str, extra: str) -> Any:
    """An optional library; raises `MissingExtra` with the line that installs it."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra(
            f"{name} is not installed", hint=f"pip install 'bascule[{extra}]'"
        ) from None


@cache
def distribution_of(package: str) -> str:
    """What brings a package: XGBoost comes under two names, with and without graphics parts.

    Kept, for it reads the lists of files of all that is installed.
    """
    return sorted(packages_distributions().get(package, [package]))[0]


def installed_version(name: str) -> str:
    """The version of a distribution, or the word `none`."""
    try:
        return environment.version_of(name)
    except PackageNotFoundError:
        return "none"


def is_of(model: Any, home: str) -> bool:
    """Whether the model's class, or one that it is derived from, is of the package `home`."""
    return any(kind.__module__.partition(".")[0] == home for kind in type(model).__mro__)
