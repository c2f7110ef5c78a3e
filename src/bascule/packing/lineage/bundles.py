"""A bundle that another was made from: `bundle:MODEL/VERSION@DIGEST`, or its name with a digest."""

from __future__ import annotations

from bascule.core import Invalid


def trace(what: str) -> dict[str, str]:
    """The parent and its digest; the digest alone says which bundle it was.

    Raises:
        Invalid: There is no digest.
    """
    parent, _, digest = what.partition("@")
    if not parent or not digest.startswith("sha256:"):
        raise Invalid(
            f"lineage 'bundle:{what}' names no digest",
            hint="write bundle:late/4@sha256:...",
            field="lineage",
        )
    return {"parent": parent, "digest": digest}
