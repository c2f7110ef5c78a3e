from .budgets import Budget as Budget, Effect as Effect, fleet_budget as fleet_budget
from .columns import read_current as read_current, times_of as times_of
from .comparing import acceptable as acceptable, measure_drift as measure_drift
from .deciding import ColumnWatch as ColumnWatch
from .judging import ModelWatch as ModelWatch
from .production import (
    OpenBundle as OpenBundle,
    measure_production_drift as measure_production_drift,
    watch_windows as watch_windows,
)
from .report import (
    DriftReport as DriftReport,
    ProductionDrift as ProductionDrift,
    alarm_sentences as alarm_sentences,
)
from .results import ColumnDrift as ColumnDrift, Test as Test, WindowDrift as WindowDrift
from .view import (
    ColumnView as ColumnView,
    columns_of as columns_of,
    typical as typical,
)
