"""Simulated canaries with the default guards: six laws of durations, by the product's own counting.

Durations are drawn from a law, counted in the bins of `stats.durations`, and compared beyond the
limits that the intervals before give, as a server does. A canary has 5, 25 and 50 % of the requests
in turn, a third of them each. An interval has 250 requests, and each is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from bascule.release.rollouts import DEFAULT_GUARDS
from bascule.stats import durations, exact_interval
from bascule.stats.planning import log_evidence, simulated_counts
from bascule.stats.sequential import SAFE_RATIOS, WORSE_RATIOS, over_strata

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INTERVAL = 250
SHARES = (0.05, 0.25, 0.5)
LEAST = 100
"""Answers of the current version before limits are chosen, as in `rollouts.guards`."""
ERRORS = 0.005
ENOUGH = math.log(20)
_POINTS = 2**17
"""Of a law: its quantiles in the middle of so many equal parts."""
_CHUNK = 25
_SCALE_NS = 3e6

_U = (np.arange(_POINTS) + 0.5) / _POINTS
_NORMAL = stats.norm.ppf(_U)


def _modes(shares: tuple[float, ...], spread: float) -> Floats:
    """Quantiles of log-normal modes, each ten times as far as the one before."""
    at = np.geomspace(1e-3, 1e5, 400_001)
    modes = 10.0 ** np.arange(len(shares))
    below = sum(
        share * stats.norm.cdf(np.log(at / mode) / spread)
        for share, mode in zip(shares, modes, strict=True)
    )
    return np.interp(_U, below, at)


LAWS: dict[str, Floats] = {
    "log-normal .5": np.exp(0.5 * _NORMAL),
    "log-normal 1": np.exp(_NORMAL),
    "Pareto 1.5": (1 - _U) ** (-1 / 1.5),
    "bimodal": _modes((0.9, 0.1), 0.3),
    "narrow": 1 + 0.02 * _NORMAL,
    "steps": np.array([1.0, 2, 5, 10, 20])[np.searchsorted([0.4, 0.7, 0.92, 0.985], _U)],
}
"""Durations as multiples of 3 ms."""


def slower_from(quantile: float, factor: float) -> Callable[[Floats], Floats]:
    """Answers from a quantile on take so many times as long."""
    return lambda took: np.where(quantile <= _U, factor * took, took)


class Cell(NamedTuple):
    """What a candidate does.

    Attributes:
        name: For the table.
        change: Of the candidate's durations, by their quantile.
        requests: In all.
        load: How much longer both arms take at the end than at the start.
    """

    name: str
    change: Callable[[Floats], Floats]
    requests: int = 100_000
    load: float = 1.0


EQUAL = Cell("equal", slower_from(0, 1.0))
EQUAL_UNDER_LOAD = Cell("equal, load doubles durations", slower_from(0, 1.0), load=2.0)
AT_MARGIN = Cell("20 % slower", slower_from(0, 1.2))
SLOW = (
    Cell("twice as slow", slower_from(0, 2.0), 20_000),
    Cell("the faster half twice as slow", lambda took: np.where(_U < 0.5, 2, 1) * took, 20_000),
    Cell("twice as slow from p90 on", slower_from(0.9, 2.0), 20_000),
    Cell("four times as slow from p99 on", slower_from(0.99, 4.0), 50_000),
)


class Ends(NamedTuple):
    """Of each rollout: the look at which it was rolled back, or promoted; `inf` for never."""

    rolled_back: Floats
    promoted: Floats

    @property
    def promotions(self) -> int:
        return int((self.promoted < self.rolled_back).sum())

    @property
    def rollbacks(self) -> int:
        return int((np.isfinite(self.rolled_back) & (self.rolled_back <= self.promoted)).sum())


def ends(law: str, cell: Cell, runs: int, *, seed: int = 0) -> Ends:
    """How so many canaries end."""
    random = np.random.default_rng([seed, len(law), cell.requests])
    looks = cell.requests // INTERVAL
    share = np.repeat(SHARES, -(-looks // len(SHARES)))[:looks]
    found = [
        _chunk(law, cell, share, min(_CHUNK, runs - start), random)
        for start in range(0, runs, _CHUNK)
    ]
    return Ends(*(np.concatenate(sides) for sides in zip(*found, strict=True)))


def _chunk(
    law: str, cell: Cell, share: Floats, runs: int, random: np.random.Generator
) -> tuple[Floats, Floats]:
    looks = len(share)
    n_c = random.binomial(INTERVAL, share, (runs, looks))
    current = _counted(LAWS[law], INTERVAL - n_c, cell.load, random)
    candidate = _counted(cell.change(LAWS[law]), n_c, cell.load, random)
    past = np.cumsum(current, axis=1) - current
    above = durations.beyond(candidate), durations.beyond(current)

    def log_e(quantile: float, allowed: tuple[float, float], *, proves: bool) -> Floats:
        of_current, of_candidate = durations.limits(past, 1 - quantile, allowed, proves=proves)
        sides = zip(above, (of_candidate, of_current), strict=True)
        events = [np.take_along_axis(side, bins[..., None], -1)[..., 0] for side, bins in sides]
        counts = np.stack([n_c, events[0], INTERVAL - n_c, events[1]], -1).astype(float)
        counts *= (past.sum(axis=-1) >= LEAST)[..., None]
        return log_evidence(counts, 0.0, SAFE_RATIOS if proves else WORSE_RATIOS, 1 - quantile)

    harm, proofs = [], []
    for guard in DEFAULT_GUARDS:
        if guard.harmed:
            each = [
                over_strata(one, [one, *[np.zeros_like(one)] * (durations.CLASSES - 1)])
                for quantile in guard.harmed
                for one in (log_e(quantile, guard.allowed, proves=False),)
            ]
            proofs += [log_e(quantile, guard.allowed, proves=True) for quantile in guard.shown]
        else:
            drawn = [
                simulated_counts(ERRORS, ERRORS, part, (runs, 1), INTERVAL, random)
                for part in share
            ]
            counts = np.concatenate(drawn, axis=1)
            each = [log_evidence(counts, guard.margin, WORSE_RATIOS)]
            proofs.append(log_evidence(counts, guard.margin, SAFE_RATIOS))
        harm.append(np.logaddexp.reduce(each, axis=0) - math.log(len(each)))
    all_harm = np.logaddexp.reduce(harm, axis=0) - math.log(len(harm))
    is_shown = (np.min(proofs, axis=0) >= ENOUGH) & (share == SHARES[-1])
    return _first(all_harm >= ENOUGH), _first(is_shown & (all_harm < ENOUGH / 2))


def _counted(took: Floats, answers: Ints, load: float, random: np.random.Generator) -> Ints:
    """Counts by bin of so many answers in each interval. Shape (runs, looks, bins)."""
    runs, looks = answers.shape
    bins = np.searchsorted(durations.BOUNDS_NS, took * _SCALE_NS)
    drawn = bins[random.integers(0, _POINTS, int(answers.sum()))]
    steps = math.log(load) / math.log(1.2) * 5 * np.arange(looks) / looks
    drawn += np.repeat(np.tile(np.round(steps).astype(int), runs), answers.ravel())
    cells = np.repeat(np.arange(runs * looks) * durations.BINS, answers.ravel())
    counts = np.bincount(cells + drawn, minlength=runs * looks * durations.BINS)
    return counts.reshape(runs, looks, durations.BINS)


def _first(is_so: NDArray[np.bool_]) -> Floats:
    return np.where(is_so.any(axis=1), is_so.argmax(axis=1) + 1.0, np.inf)


def latency_laws(runs: int) -> Iterator[str]:
    """The tables: good versions, then slow ones."""
    yield "| law | candidate | promoted | after, median | rolled back (interval) |"
    yield "|---|---|---|---|---|"
    for law in LAWS:
        for cell in (EQUAL, EQUAL_UNDER_LOAD, AT_MARGIN):
            ended = ends(law, cell, runs)
            low, high = exact_interval(ended.rollbacks, runs)
            median = float(np.median(ended.promoted)) * INTERVAL
            after = f"{median:,.0f}" if math.isfinite(median) else "-"
            back = f"{ended.rollbacks / runs:.1%} ({low:.1%} to {high:.1%})"
            yield f"| {law} | {cell.name} | {ended.promotions / runs:.1%} | {after} | {back} |"
    yield ""
    yield "| law | candidate | found within | of rollouts (interval) | after, median |"
    yield "|---|---|---|---|---|"
    for law in LAWS:
        for cell in SLOW:
            ended = ends(law, cell, runs)
            low, high = exact_interval(ended.rollbacks, runs)
            share = f"{ended.rollbacks / runs:.1%} ({low:.1%} to {high:.1%})"
            median = float(np.median(ended.rolled_back)) * INTERVAL
            yield f"| {law} | {cell.name} | {cell.requests:,} | {share} | {median:,.0f} |"
