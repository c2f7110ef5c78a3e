from .budgets import Budget as Budget, Effect as Effect
from .columns import times_of as times_of
from .comparing import measure_drift as measure_drift
from .report import DriftReport as DriftReport
from .results import ColumnDrift as ColumnDrift, Test as Test, WindowDrift as WindowDrift
from .watching import ColumnWatch as ColumnWatch
