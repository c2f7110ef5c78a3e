"""The privacy of a training by DP-SGD, computed again from how it was done (Abadi et al. 2016)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from bascule.bundle.statements import PrivacyClaim
from bascule.core import Invalid, library

_MAX_EPSILON = 1_000.0
_FIELDS = ("noise_multiplier", "sample_rate", "steps", "delta")


def claimed_privacy(privacy: Any) -> PrivacyClaim:
    """The claim of a training; see `packing.pack` for what `privacy` may be.

    Raises:
        Invalid: It is none of that.
        MissingExtra: Opacus is not installed.
    """
    try:
        phases, delta = _phases_and_delta(privacy)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
        raise Invalid(
            f"privacy is no training: {problem!r}",
            hint="pass (privacy_engine, delta) after a training, or a mapping of noise_multiplier "
            "> 0, 0 < sample_rate <= 1, steps >= 1 and 0 < delta < 1",
        ) from None
    accountants = library("opacus.accountants", "privacy")
    losses, divergences = accountants.PRVAccountant(), accountants.RDPAccountant()
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
        rows = [[privacy[name] for name in _FIELDS]]
    else:
        engine, delta = privacy
        rows = [[*phase, delta] for phase in engine.accountant.history]
    phases = tuple((float(sigma), float(rate), int(steps)) for sigma, rate, steps, _ in rows)
    delta = float(rows[0][-1])
    if not 0 < delta < 1 or not all(
        sigma > 0 and 0 < rate <= 1 and steps >= 1 for sigma, rate, steps in phases
    ):
        raise ValueError(f"{phases} with delta {delta}")
    return phases, delta
