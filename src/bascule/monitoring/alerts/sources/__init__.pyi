from .batch import BatchFacts as BatchFacts, BatchSource as BatchSource
from .daily import (
    DailySource as DailySource,
    drift_findings as drift_findings,
    performance_findings as performance_findings,
)
from .health import (
    HealthLimits as HealthLimits,
    HealthSource as HealthSource,
    ServerFacts as ServerFacts,
    VersionCount as VersionCount,
)
from .ledger import LedgerSource as LedgerSource
from .losses import LossSource as LossSource
from .objectives import Objective as Objective, ObjectiveSource as ObjectiveSource
from .queries import (
    QUERIES_SOURCE as QUERIES_SOURCE,
    QueriesSource as QueriesSource,
    throttled_counters as throttled_counters,
)
from .receivers import ReceiverSource as ReceiverSource
from .rollouts import RolloutSource as RolloutSource
from .served import (
    JUDGED as JUDGED,
    contacts_of as contacts_of,
    finished_days as finished_days,
    rows_by_hour as rows_by_hour,
)
from .signatures import SignatureSource as SignatureSource
from .silence import SilenceSource as SilenceSource
from .sunset import SunsetSource as SunsetSource, callers_said as callers_said
