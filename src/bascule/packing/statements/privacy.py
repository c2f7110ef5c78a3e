"""The privacy of a training by DP-SGD, computed again from how it was done (Abadi et al. 2016)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from bascule.bundle.statements import PrivacyClaim
from bascule.core import Invalid, MissingExtra

_MAX_EPSILON = 1_000.0
_FIELDS = ("noise_multiplier", "sample_rate", "steps", "delta")


def claimed_privacy(privacy: Any) -> PrivacyClaim:
    """The claim of a training; see `packing.pack` for what `privacy` may be.

    Raises:
        Invalid: It is none of that.
        MissingExtra: Opacus is not installed.
    """
    phases, delta = _phases_and_delta(privacy)
    if not 0 < delta < 1 or not all(
        sigma > 0 and 0 < rate <= 1 and steps >= 1 for sigma, rate, steps in phases
    ):
        raise Invalid(
            f"privacy: {phases} with delta {delta} is no training",
            hint="noise_multiplier > 0, 0 < sample_rate <= 1, steps >= 1, 0 < delta < 1",
        )
    try:
        from opacus.accountants import PRVAccountant, RDPAccountant
    except ImportError:
        raise MissingExtra(
            "the accountants of privacy are Opacus', which is not installed",
            hint="pip install 'bascule[privacy]'",
        ) from None
    losses, divergences = PRVAccountant(), RDPAccountant()
    losses.history = divergences.history = list(phases)
    # Much noise asks for higher orders than Opacus looks at by itself.
    orders = [*divergences.DEFAULT_ALPHAS, *(1 << power for power in range(6, 13))]
    with warnings.catch_warnings():
        # The tighter accountant begins with a rough bound, for which the usual orders are enough.
        warnings.filterwarnings("ignore", "Optimal order")
        # Of a sample rate of 1 it takes the logarithm of 0, and means minus infinity.
        warnings.filterwarnings("ignore", "divide by zero|overflow", RuntimeWarning)
        rough = divergences.get_epsilon(delta, alphas=orders)
        if rough > _MAX_EPSILON:  # the tighter accountant would fill the memory
            raise Invalid(
                f"privacy: an epsilon of {rough:.0f} with so little noise is no protection",
                hint="train with a larger noise_multiplier, or pack without privacy",
            )
        epsilon = float(losses.get_epsilon(delta))
    return PrivacyClaim(
        epsilon=epsilon, epsilon_rdp=float(divergences.get_epsilon(delta, alphas=orders)),
        delta=delta, phases=phases, accountant=f"opacus {version('opacus')}",
    )  # fmt: skip


def _phases_and_delta(privacy: Any) -> tuple[tuple[tuple[float, float, int], ...], float]:
    if isinstance(privacy, Mapping):
        missing = [name for name in _FIELDS if name not in privacy]
        if missing:
            raise Invalid(f"privacy: {missing[0]} is missing", hint=f"it has {', '.join(_FIELDS)}")
        try:
            sigma, rate, steps, delta = (float(privacy[name]) for name in _FIELDS)
        except (TypeError, ValueError) as problem:
            raise Invalid(f"privacy: {problem}", hint="all four are numbers") from None
        return ((sigma, rate, int(steps)),), delta
    engine, delta = privacy if isinstance(privacy, tuple) else (privacy, None)
    history = getattr(getattr(engine, "accountant", None), "history", None)
    if not history or delta is None:
        raise Invalid(
            "privacy is neither (PrivacyEngine, delta) after a training nor a mapping",
            hint=f"pass privacy=(privacy_engine, 1e-5), or a mapping of {', '.join(_FIELDS)}",
        )
    return tuple((float(s), float(q), int(n)) for s, q, n in history), float(delta)
