"""The evidence of a rollout as a chart. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bascule.charts import Lane, Series, Svg, lines
from bascule.release.rollouts.facts import odds

if TYPE_CHECKING:
    from bascule.release.rollouts.plan import Rollout

_LEAST_LOG10 = -3.0


def evidence_chart(rollout: Rollout, evidence: Sequence[tuple[int, float | None]]) -> Svg | None:
    """The evidence of harm over the intervals, and the boundary at which the rollout ends."""
    looks = [(at + 1, log_e) for at, log_e in evidence if log_e is not None]
    if not looks:
        return None
    points = [(float(at), max(_LEAST_LOG10, log_e / math.log(10))) for at, log_e in looks]
    boundary = -math.log10(rollout.alpha)
    alt = (
        f"Evidence of harm of {rollout.candidate} over {looks[-1][0]} intervals: "
        f"{odds(looks[-1][1])}, boundary {1 / rollout.alpha:g} to 1"
    )
    return lines(
        [Series(points)], ("interval", "odds, to 1"), alt, powers=True, whole=True,
        size=(460, 260),
        lanes=[Lane(0.0, "guide"), Lane(boundary)],
        marks=[points[-1]] if points[-1][1] >= boundary else [],
    )  # fmt: skip
