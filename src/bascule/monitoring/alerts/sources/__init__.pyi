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
from .served import (
    contacts_of as contacts_of,
    drift_of as drift_of,
    finished_days as finished_days,
    requests_by_hour as requests_by_hour,
)
from .silence import SilenceSource as SilenceSource
