from .asked import recorded_run as recorded_run, run as run
from .engine import Cancelled as Cancelled
from .exposition import batch_text as batch_text
from .jobs import Job as Job, job_of as job_of, read_job as read_job, read_toml as read_toml
from .locations import Places as Places, is_below as is_below
from .manifest import Chunk as Chunk, Manifest as Manifest, Record as Record
from .on_ray import connected_to_ray as connected_to_ray
from .reading import count_place as count_place, read_place as read_place
from .recording import MonitoringRules as MonitoringRules
from .remote import RemoteRuns as RemoteRuns, RemoteSchedules as RemoteSchedules
from .running import Planned as Planned, Run as Run, planned as planned, run_job as run_job
from .runs import Runs as Runs, Status as Status
from .streams.metrics import serve_metrics as serve_metrics
from .streams.running import (
    Streamed as Streamed,
    StreamJob as StreamJob,
    run_stream as run_stream,
    take_outcomes as take_outcomes,
)
from .table_files import (
    as_table as as_table,
    as_trained as as_trained,
    check_growth as check_growth,
    check_output as check_output,
    read_rows as read_rows,
    read_stream as read_stream,
    split_truth as split_truth,
    write_table as write_table,
)
from .watched import (
    facts_of_runs as facts_of_runs,
    facts_of_schedules as facts_of_schedules,
    model_of as model_of,
)
