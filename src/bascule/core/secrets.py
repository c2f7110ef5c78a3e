"""Values that settings keep elsewhere: in a variable, in a file, in OpenBao or Vault."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from bascule.core.errors import Invalid, NotFound
from bascule.core.names import load_named

MAX_SECRET_BYTES = 65_536
_VAULT = "bascule.security.vault:read"
_REFERENCE = re.compile(r"\$\{((?:env|file|vault):[^}]+)\}")


def is_kept_elsewhere(said: str) -> bool:
    """Whether a setting names another place, so that its value may change."""
    return said.startswith(("env:", "file:", "vault:")) or _REFERENCE.search(said) is not None


def secret_in(said: str, wrong: Callable[[str], Exception] = Invalid) -> str:
    """The value of `env:NAME`, `file:PATH` or `vault:PATH#FIELD`, or the text itself.

    In an address, `${vault:PATH#FIELD}` stands for a part, which is quoted for it. Who holds what
    it says for long asks again, for it may be rotated. A path of a file is absolute, or relative to
    the working directory; white space around the value of a file is dropped: editors end files with
    a newline.

    Args:
        said: What the setting says.
        wrong: Makes the error from the reason.
    """
    if "${" in said:
        return _REFERENCE.sub(lambda part: quote(secret_in(part[1], wrong), safe=""), said)
    kind, _, place = said.partition(":")
    if kind == "vault":
        try:
            return str(load_named(_VAULT)(place))
        except (Invalid, NotFound) as error:
            raise wrong(error.message) from None
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
