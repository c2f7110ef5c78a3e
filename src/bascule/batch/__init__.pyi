from .asked import run as run
from .due import Schedule as Schedule, due as due, next_time as next_time
from .engine import Cancelled as Cancelled
from .jobs import MODES as MODES, Job as Job, job_of as job_of, read_job as read_job
from .manifest import Chunk as Chunk, Manifest as Manifest, Record as Record
from .ports import Sink as Sink, Source as Source, Staged as Staged
from .running import Planned as Planned, Run as Run, planned as planned, run_job as run_job
from .runs import Runs as Runs, Status as Status
from .schedules import (
    Scheduled as Scheduled,
    Schedules as Schedules,
    schedules_needing as schedules_needing,
)
