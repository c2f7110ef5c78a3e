from .answers import (
    LEAST_SAMPLE as LEAST_SAMPLE,
    MAX_EVENTS as MAX_EVENTS,
    AnswerCounts as AnswerCounts,
    Event as Event,
    PairCounts as PairCounts,
)
from .arms import (
    BOUND_UNIT as BOUND_UNIT,
    FIRST_ANSWERED as FIRST_ANSWERED,
    FIRST_CLAIMED as FIRST_CLAIMED,
    FIRST_FAILED as FIRST_FAILED,
    FIRST_FELL_BACK as FIRST_FELL_BACK,
    ROUND_BITS as ROUND_BITS,
    ROUND_S as ROUND_S,
    SHADOW_ARM as SHADOW_ARM,
    ArmLabel as ArmLabel,
    ArmSeries as ArmSeries,
    ArmTotals as ArmTotals,
    BoundSeries as BoundSeries,
    labels_of as labels_of,
)
from .counters import (
    BUCKETS_S as BUCKETS_S,
    STATUSES as STATUSES,
    Counters as Counters,
    Ending as Ending,
    MetricLabels as MetricLabels,
    MetricSeries as MetricSeries,
    Pulse as Pulse,
    Totals as Totals,
)
from .exposition import prometheus_text as prometheus_text
from .ledger import LedgerRecorder as LedgerRecorder
from .load import (
    Load as Load,
    Look as Look,
    VersionLoad as VersionLoad,
    VersionLook as VersionLook,
    WorkerLoad as WorkerLoad,
    WorkerLook as WorkerLook,
    load_between as load_between,
    quantile_s as quantile_s,
)
from .logs import start_logging as start_logging
from .recorder import (
    RECORDER_VARIABLE as RECORDER_VARIABLE,
    Recorder as Recorder,
    open_recorder as open_recorder,
)
from .request_log import (
    FAILED_FROM as FAILED_FROM,
    FAILURES_ALONE as FAILURES_ALONE,
    NEVER as NEVER,
    RequestLog as RequestLog,
    RequestLogConfig as RequestLogConfig,
    request_id_of as request_id_of,
)
from .spans import OtlpSpans as OtlpSpans
from .texts import (
    CHUNK as CHUNK,
    KEPT_ANSWER as KEPT_ANSWER,
    KEPT_PROMPT as KEPT_PROMPT,
    REQUEST as REQUEST,
    SUBJECT as SUBJECT,
    TEXT as TEXT,
    TextFigures as TextFigures,
    rules_of as rules_of,
)
