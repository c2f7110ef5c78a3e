"""Values that settings keep elsewhere: in a variable or in a file, where an agent may put them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bascule.core.errors import Invalid

MAX_SECRET_BYTES = 65_536


def secret_in(said: str, wrong: Callable[[str], Exception] = Invalid) -> str:
    """The value of `env:NAME` or `file:PATH`, or the text itself.

    A path is absolute, or relative to the working directory. White space around the value of a
    file is dropped: editors end files with a newline.

    Args:
        said: What the setting says.
        wrong: Makes the error from the reason.
    """
    kind, _, place = said.partition(":")
    if kind == "env":
        value = os.environ.get(place)
        if value is None:
            raise wrong(f"the variable {place} is not set")
        return value
    if kind == "file":
        try:
            with Path(place).open("rb") as file:
                return file.read(MAX_SECRET_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise wrong(f"{place} cannot be read: {error}") from None
    return said
