"""What a deployment asks for: one value, which command, Python and control API make alike."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from bascule.core import Invalid, Reference

NO_ALIAS = "none"
"""As `follow`: the endpoint follows no alias from now on."""


class DeployRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version to deploy.

    Attributes:
        version: `late/4`, `late@champion`, or `late` for the newest good one.
        endpoint: The model's name if empty.
        strategy: `all` if empty. See `STRATEGIES`; others are decided by a rollout.
        reason: Why, for the history.
        follow: The alias that is the endpoint's source from now on, `MODEL@ALIAS`; `none` ends
            that; empty changes nothing.
    """

    version: str
    endpoint: str = ""
    strategy: str = ""
    reason: str = ""
    follow: str = ""


Asked = TypeVar("Asked", bound=DeployRequest)


def request_of(kind: type[Asked], version: object, options: dict[str, Any]) -> Asked:
    """A request from the arguments of a call: `to` is the endpoint. Raises `Invalid`."""
    if "to" in options:
        options = {**options, "endpoint": options["to"]}
        del options["to"]
    known = [name for name in kind.__struct_fields__ if name != "version"]
    if unknown := sorted(set(options) - set(known)):
        names = ", ".join(sorted([*known, "to"]))
        raise Invalid(f"a deployment has no {unknown[0]!r}", hint=f"it has {names}")
    try:
        return msgspec.convert({"version": str(version), **options}, kind)
    except msgspec.ValidationError as problem:
        raise Invalid(f"deployment: {problem}", hint="see bascule.deploy") from None


def check_follow(follow: str) -> None:
    """Raise `Invalid` unless it names an alias, or is `none` or empty."""
    if follow not in ("", NO_ALIAS) and Reference.parse(follow).alias is None:
        raise Invalid(f"follow: {follow!r} names no alias", hint="write MODEL@ALIAS")
