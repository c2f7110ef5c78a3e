"""What is claimed of the privacy of a training, and what an attack on its model showed."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from bascule.core import Untrusted

PRIVACY_KIND, MEMBERSHIP_KIND = "privacy", "membership"


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    @classmethod
    def from_json(cls, body: Any) -> Self:
        """From the body of a statement; raises `Untrusted`."""
        try:
            return msgspec.convert(body, cls)
        except msgspec.ValidationError as problem:
            raise Untrusted(
                f"the statement is of another form: {problem}", hint="pack or audit the model again"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The body of a statement."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        return body


class PrivacyClaim(_Said, frozen=True, kw_only=True):
    """The differential privacy of a training by DP-SGD; its statement is of the kind `privacy`.

    Attributes:
        epsilon: By the accountant of privacy loss distributions (Gopi et al. 2021), the tighter.
        epsilon_rdp: By Renyi divergences (Mironov 2017).
        delta: How probable it is that epsilon does not hold.
        phases: The noise multiplier, the share of rows in a batch, and the steps of each phase.
        accountant: Whose program computed both, and its version.
    """

    epsilon: float
    epsilon_rdp: float
    delta: float
    phases: tuple[tuple[float, float, int], ...]
    accountant: str


class MembershipAudit(_Said, frozen=True, kw_only=True):
    """How well an attack told rows of the training from others; of the kind `membership`.

    Attributes:
        epsilon_bound: The training has at least this epsilon, with the confidence.
        confidence: Of the bound.
        delta: That the bound is for.
        rows: How many rows the attack was made on.
    """

    epsilon_bound: float
    confidence: float
    delta: float
    rows: int
