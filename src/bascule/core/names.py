"""Names of models and aliases, and references to versions.

A reference is what people type: `late` (the newest version whose gates have not failed), `late/3`
(that version), `late@champion` (the version that the alias points to).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from bascule.core.addresses import masked
from bascule.core.errors import Invalid, MissingExtra

NAME_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?"
"""Of names, for documents; two points in a row are refused beside it."""
_NAME = re.compile(NAME_PATTERN)


def check_name(name: str, *, what: str = "model name") -> str:
    """Return `name` if it can stand in a URL, a file name and a label; else raise `Invalid`."""
    if not isinstance(name, str):
        raise Invalid(f"{what}: {name!r} is not text", hint="pass a text such as 'churn'")
    if not _NAME.fullmatch(name) or ".." in name:
        raise _not_allowed(name, what)
    return name


def _not_allowed(name: str, what: str) -> Invalid:
    return Invalid(
        f"{what} {name!r} is not allowed",
        hint="use 1 to 128 letters, digits, '-', '_' or '.', starting and ending with a "
        "letter or digit",
        name=name,
    )


def is_file_name(path: str) -> bool:
    """Whether every part of a path fits into a folder: at most 255 bytes, and no NUL."""
    return "\0" not in path and all(len(os.fsencode(part)) <= 255 for part in path.split("/"))


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference; at most one of `number` and `alias` is set."""

    model: str
    number: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse `model`, `model/NUMBER` or `model@alias`; raises `Invalid`."""
        if "@" in text:
            model, _, alias = text.partition("@")
            if ":" in model:  # an address, perhaps with a password, and not split where it is shown
                raise _not_allowed(masked(text), "model name")
            return cls(check_name(model), alias=check_name(alias, what="alias"))
        model, slash, number = text.partition("/")
        check_name(model)
        if not slash:
            return cls(model)
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < 2**31:
            raise Invalid(
                f"version {number!r} in {text!r} is not a whole number >= 1",
                hint="write a reference as model, model/3 or model@alias",
            )
        return cls(model, number=int(number))

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.model}@{self.alias}"
        return self.model if self.number is None else f"{self.model}/{self.number}"


def is_inside(name: str) -> bool:
    """Whether a name is a plain path inside a folder."""
    pure = PurePosixPath(name)
    return bool(
        name
        and not pure.is_absolute()
        and ".." not in pure.parts
        and "\\" not in name
        and "\0" not in name
        and str(pure) == name
    )


def user_name() -> str:
    """The name of the logged-in user, or `unknown`."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def load_named(place: str) -> Any:
    """The object at `module:name`, as tables of what is loaded when it is used have it."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def library(name: str, extra: str) -> Any:
    """An optional library; raises `MissingExtra` with the line that installs it."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra(
            f"{name} is not installed", hint=f"pip install 'bascule[{extra}]'"
        ) from None
