from .budgets import Budget as Budget, Effect as Effect
from .comparing import measure_drift as measure_drift
from .report import (
    ColumnDrift as ColumnDrift,
    DriftReport as DriftReport,
    Test as Test,
    WindowDrift as WindowDrift,
)
from .watching import ColumnWatch as ColumnWatch
