"""What is claimed of the privacy of a training, and what an audit showed, as facts of gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bascule.bundle.statements import (
    MEMBERSHIP_KIND,
    PRIVACY_KIND,
    MembershipAudit,
    PrivacyClaim,
)
from bascule.release.gates import Measured

if TYPE_CHECKING:
    from bascule.bundle import Bundle


def claim_of(bundle: Bundle) -> PrivacyClaim | None:
    """What is claimed of the training; None if nothing is."""
    said = bundle.statements(PRIVACY_KIND)
    return PrivacyClaim.from_json(said[-1].body) if said else None


def claimed_epsilon(bundle: Bundle) -> Measured:
    """The claim as a fact of a gate; none where the last audit refutes it."""
    claim, audited = claim_of(bundle), _last_audit(bundle)
    if claim is None:
        return Measured(None, "no privacy is claimed of the training; pack it with privacy=...")
    if audited is not None and audited.epsilon_bound > claim.epsilon:
        return Measured(
            None,
            f"refuted: an audit shows at least {audited.epsilon_bound:.3g} where "
            f"{claim.epsilon:.3g} is claimed",
        )
    return Measured(claim.epsilon, f"claimed, at delta {claim.delta:g}, by {claim.accountant}")


def membership_epsilon(bundle: Bundle) -> Measured:
    """The lower bound of the last audit as a fact of a gate."""
    audited = _last_audit(bundle)
    if audited is None:
        return Measured(None, "no audit is recorded; run bascule privacy audit")
    return Measured(audited.epsilon_bound, f"at least, on {audited.rows} rows")


def _last_audit(bundle: Bundle) -> MembershipAudit | None:
    said = bundle.statements(MEMBERSHIP_KIND)
    return MembershipAudit.from_json(said[-1].body) if said else None
