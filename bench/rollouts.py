"""False rollbacks and delay of the sequential tests, by simulation: `make bench-rollouts`.

A run is a rollout of 100,000 requests that is looked at every 100. The other rules are those that
deployment tools use, asked at the same looks:

- repeated z: a one-sided test of two proportions at 5 %, of all requests so far;
- threshold: Flagger's rule, of the candidate alone: five looks whose rate is over a limit. The
  limit is the current rate and one point;
- Mann-Whitney: Kayenta's rule, of the rates of the last 60 looks, one-sided at 2 %; asked at every
  tenth look.

Each share of false rollbacks has the interval of Clopper and Pearson. One process.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from bascule.stats import exact_interval
from bascule.stats.planning import log_evidence, simulated_counts
from bascule.stats.sequential import WORSE_RATIOS
from bench.latency_laws import latency_laws

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rule = Callable[[Floats], Bools]

REQUESTS, INTERVAL = 100_000, 100
LOOKS = REQUESTS // INTERVAL
SHARES = (0.05, 0.2, 0.5)
RATES = (0.002, 0.01, 0.05, 0.2)
HARMS = (0.01, 0.02, 0.05)
ALPHA = 0.05
_CHUNK = 200
_NORMAL = NormalDist()


def betting(counts: Floats) -> Bools:
    """Bascule's own, with a margin of nought."""
    made: Bools = log_evidence(counts, 0.0, WORSE_RATIOS) >= -math.log(ALPHA)
    return made


def repeated_z(counts: Floats) -> Bools:
    """See the module."""
    n_c, e_c, n_0, e_0 = np.moveaxis(np.cumsum(counts, axis=1), -1, 0)
    pooled = (e_c + e_0) / (n_c + n_0)
    error = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n_c, 1) + 1 / np.maximum(n_0, 1)))
    gap = e_c / np.maximum(n_c, 1) - e_0 / np.maximum(n_0, 1)
    made: Bools = (gap > _NORMAL.inv_cdf(1 - ALPHA) * error) & (e_c + e_0 >= 10)
    return made


def threshold(counts: Floats, rate: float) -> Bools:
    """See the module."""
    is_over = counts[..., 1] > (rate + 0.01) * counts[..., 0]
    made: Bools = np.cumsum(is_over, axis=1) >= 5
    return made


def mann_whitney(counts: Floats) -> Bools:
    """See the module."""
    window = 60
    n_c, e_c, n_0, e_0 = np.moveaxis(counts, -1, 0)
    rates = e_c / np.maximum(n_c, 1), e_0 / np.maximum(n_0, 1)
    made = np.zeros(counts.shape[:2], bool)
    for look in range(window, counts.shape[1] + 1, 10):
        candidate, current = (one[:, look - window : look] for one in rates)
        test = stats.mannwhitneyu(
            candidate, current, axis=1, alternative="greater", method="asymptotic"
        )
        made[:, look - 1] = test.pvalue < 0.02
    return made


def simulated(rate: float, harm: float, share: float, runs: int) -> Iterator[Floats]:
    random = np.random.default_rng([int(rate * 1e4), int(harm * 1e4), int(share * 100)])
    for start in range(0, runs, _CHUNK):
        shape = (min(_CHUNK, runs - start), LOOKS)
        yield simulated_counts(rate, rate + harm, share, shape, INTERVAL, random)


def false_rollbacks(runs: int) -> Iterator[str]:
    """The table of rollouts of a candidate that is as good as the current version."""
    yield "| rate | share | betting (interval) | repeated z | threshold | Mann-Whitney |"
    yield "|---|---|---|---|---|---|"
    for rate in RATES:
        for share in SHARES:
            rules: tuple[Rule, ...] = (
                betting, repeated_z, partial(threshold, rate=rate), mann_whitney,
            )  # fmt: skip
            found = np.zeros(len(rules), int)
            for counts in simulated(rate, 0.0, share, runs):
                found += [int(rule(counts).any(axis=1).sum()) for rule in rules]
            low, high = exact_interval(int(found[0]), runs)
            ours = f"{found[0] / runs:.1%} ({low:.1%} to {high:.1%})"
            others = " | ".join(f"{one / runs:.0%}" for one in found[1:])
            yield f"| {rate:.1%} | {share:.0%} | {ours} | {others} |"


def ramps(runs: int) -> Iterator[str]:
    """Shares of 5, 20 and 50 % while the rate doubles with each, or by the hour."""
    yield "| traffic | betting (interval) | repeated z |"
    yield "|---|---|---|"
    random = np.random.default_rng(1)
    stages = ((0.05, 0.01), (0.2, 0.02), (0.5, 0.04))
    hours = tuple((0.2, 0.01 * (1 + hour % 2)) for hour in range(12))
    for name, parts in (
        ("ramp, rate doubles per stage", stages),
        ("rate doubles every hour", hours),
    ):
        found = np.zeros(2, int)
        for _ in range(0, runs, _CHUNK):
            shape = (_CHUNK, LOOKS // len(parts))
            counts = np.concatenate(
                [
                    simulated_counts(rate, rate, share, shape, INTERVAL, random)
                    for share, rate in parts
                ],
                axis=1,
            )
            found += [int(rule(counts).any(axis=1).sum()) for rule in (betting, repeated_z)]
        low, high = exact_interval(int(found[0]), runs)
        ours = f"{found[0] / runs:.1%} ({low:.1%} to {high:.1%})"
        yield f"| {name} | {ours} | {found[1] / runs:.0%} |"


def fixed_requests(rate: float, harm: float, share: float) -> float:
    """Requests of a one-sided z-test at 5 % with 80 % power (Fleiss 1981, chapter 3)."""
    pooled, worse = rate + share * harm, rate + harm
    null = math.sqrt(pooled * (1 - pooled) * (1 / share + 1 / (1 - share)))
    other = math.sqrt(worse * (1 - worse) / share + rate * (1 - rate) / (1 - share))
    return float(((_NORMAL.inv_cdf(0.95) * null + _NORMAL.inv_cdf(0.8) * other) / harm) ** 2)


def delays(runs: int) -> Iterator[str]:
    """Median requests until a harmful candidate is rolled back, and the part that it answered."""
    yield "| rate | harm | share | requests | over a fixed test's | of them exposed |"
    yield "|---|---|---|---|---|---|"
    for rate in RATES:
        for harm in HARMS:
            for share in SHARES:
                first = []
                for counts in simulated(rate, harm, share, runs):
                    is_found = betting(counts)
                    looks = np.where(is_found.any(axis=1), is_found.argmax(axis=1) + 1, np.inf)
                    first += list(looks * INTERVAL)
                median, fixed = float(np.median(first)), fixed_requests(rate, harm, share)
                if not math.isfinite(median):
                    power = np.isfinite(first).mean()
                    said = f"over {REQUESTS:,} (found in {power:.0%}) | {fixed:,.0f} needed | -"
                else:
                    said = f"{median:,.0f} | {median / fixed:.2f} | {median * share:,.0f}"
                yield f"| {rate:.1%} | +{harm:.0%} | {share:.0%} | {said} |"


def averaged(parts: list[Floats]) -> Floats:
    """The logarithm of the mean of e-processes, at each look."""
    made: Floats = np.logaddexp.reduce(parts, axis=0) - math.log(len(parts))
    return made


def guards_together(runs: int) -> Iterator[str]:
    """False rollbacks by guard, and with errors and accuracy averaged."""
    yield "| share | errors (1 %) | accuracy (20 %) | both together (interval) |"
    yield "|---|---|---|---|"
    for share in SHARES:
        found = np.zeros(3, int)
        parts = zip(
            simulated(0.01, 0.0, share, runs), simulated(0.2, 0.0, share, runs), strict=True
        )
        for errors, wrong in parts:
            each = [log_evidence(counts, 0.0, WORSE_RATIOS) for counts in (errors, wrong)]
            for place, log_e in enumerate([*each, averaged(each)]):
                found[place] += int((log_e >= -math.log(ALPHA)).any(axis=1).sum())
        low, high = exact_interval(int(found[2]), runs)
        said = " | ".join(f"{one / runs:.1%}" for one in found)
        yield f"| {share:.0%} | {said} ({low:.1%} to {high:.1%}) |"


def default_guards(runs: int) -> Iterator[str]:
    """Canaries with the default guards; see `bench.latency_laws`. A tenth of the rollouts."""
    yield from latency_laws(runs // 10)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2_000, help="rollouts of each row")
    parser.add_argument("--only", default="", help="one table, by the name of its function")
    arguments = parser.parse_args()
    runs = math.ceil(arguments.runs / _CHUNK) * _CHUNK
    tables = (false_rollbacks, guards_together, ramps, delays, default_guards)
    for table in (one(runs) for one in tables if arguments.only in ("", one.__name__)):
        for line in table:
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
