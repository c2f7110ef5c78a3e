"""Gates: the requirements that a version must meet to move on, and the measuring behind them."""

from __future__ import annotations

from bascule.release.checking import check
from bascule.release.criteria import METRICS, Criterion
from bascule.release.gates import GateReport, Measured, Result, evaluate

__all__ = ["METRICS", "Criterion", "GateReport", "Measured", "Result", "check", "evaluate"]
