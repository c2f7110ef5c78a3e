from .drift import (
    Budget as Budget,
    ColumnDrift as ColumnDrift,
    ColumnWatch as ColumnWatch,
    DriftReport as DriftReport,
    Effect as Effect,
    ModelWatch as ModelWatch,
    ProductionDrift as ProductionDrift,
    Test as Test,
    WindowDrift as WindowDrift,
    measure_drift as measure_drift,
    measure_production_drift as measure_production_drift,
    watch_windows as watch_windows,
)
from .judging import (
    KEPT_TEXT as KEPT_TEXT,
    Judge as Judge,
    JudgeOptions as JudgeOptions,
    check_kept as check_kept,
    unjudged as unjudged,
    verdicts as verdicts,
)
from .ledger import (
    Ledger as Ledger,
    Outcomes as Outcomes,
    RemoteOutcomes as RemoteOutcomes,
)
from .performance import (
    PerformanceReport as PerformanceReport,
    measure_performance as measure_performance,
)
from .quotas import Quotas as Quotas
from .recorded import (
    Recorded as Recorded,
    find_prediction as find_prediction,
    latest_predictions as latest_predictions,
)
from .replaying import (
    explain_prediction as explain_prediction,
    replay_prediction as replay_prediction,
)
from .slices import Sides as Sides, find_slices as find_slices
from .terms import Prices as Prices, Terms as Terms
from .traffic import Traffic as Traffic, traffic_by_endpoint as traffic_by_endpoint
from .usage import (
    UsageAsked as UsageAsked,
    as_csv as as_csv,
    read_usage as read_usage,
    usage_of as usage_of,
)
