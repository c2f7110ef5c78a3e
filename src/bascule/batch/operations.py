"""What the control API does with batch runs and with schedules."""

from __future__ import annotations

from bascule.batch.manifest import Manifest
from bascule.batch.runs import Status
from bascule.jobs import Log, Scheduled
from bascule.operations import Listing, Operation
from bascule.security import ANY

_TAG, _RUN, _SCHEDULE = "batch", "batch/runs/{run}", "schedules/{schedule}"

RUNS = Listing("GET batch/runs", "read", ANY, Status)
# Of which model is in the body, or known by the run or the schedule: asked then.
START = Operation("POST batch/runs", "manage", "", Status, status=201)
RUN = Operation(f"GET {_RUN}", "read", "", Status)
MANIFEST = Operation(f"GET {_RUN}/manifest", "read", "", Manifest)
LOG = Operation(f"GET {_RUN}/log", "read", "", Log)
COMMAND = Operation(f"POST {_RUN}/{{command}}", "manage", "", Status)

SCHEDULES = Listing("GET schedules", "read", ANY, Scheduled, _TAG, reads=Scheduled.from_json)
ADD = Operation(
    "POST schedules", "manage", "", Scheduled, _TAG, status=201, history="schedule_added",
    reads=Scheduled.from_json,
)  # fmt: skip
SCHEDULE = Operation(f"GET {_SCHEDULE}", "read", "", Scheduled, _TAG, reads=Scheduled.from_json)
REMOVE = Operation(
    f"DELETE {_SCHEDULE}", "manage", "", Scheduled, _TAG, history="schedule_removed",
    reads=Scheduled.from_json,
)  # fmt: skip
RUN_NOW = Operation(f"POST {_SCHEDULE}/run", "manage", "", Status, _TAG)
COMMAND_SCHEDULE = Operation(
    f"POST {_SCHEDULE}/{{command}}", "manage", "", Scheduled, _TAG, reads=Scheduled.from_json
)
