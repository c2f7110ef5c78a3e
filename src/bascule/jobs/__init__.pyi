from .dates import (
    check_no_dates as check_no_dates,
    time_of_run as time_of_run,
    with_dates as with_dates,
)
from .deferred import MAX_ANSWER_BYTES as MAX_ANSWER_BYTES, Payloads as Payloads
from .due import (
    Schedule as Schedule,
    Scheduled as Scheduled,
    due as due,
    late_since as late_since,
    may_run as may_run,
    next_time as next_time,
    time_before as time_before,
)
from .holding import Recorded as Recorded, recorded as recorded
from .kinds import Kind as Kind, Kinds as Kinds, half_of_memory as half_of_memory
from .live import Live as Live, Unrecorded as Unrecorded, noting as noting
from .operations import Log as Log
from .records import (
    CALLBACK as CALLBACK,
    DONE as DONE,
    INFERENCE as INFERENCE,
    OF_SCHEDULE as OF_SCHEDULE,
    QUEUED as QUEUED,
    RUNNING as RUNNING,
    Command as Command,
    Job as Job,
    Task as Task,
)
from .remote import RemoteJobs as RemoteJobs, until_ended as until_ended
from .running import AskKind as AskKind, JobRunner as JobRunner
from .schedules import (
    Schedules as Schedules,
    schedules_needing as schedules_needing,
)
from .store import Jobs as Jobs
