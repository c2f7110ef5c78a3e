from . import references as references
from .batch_runs import BatchRunner as BatchRunner
from .following import following_plans as following_plans
from .holds import holding_served as holding_served
from .link import ServerLink as ServerLink
from .process import (
    Answers as Answers,
    Parts as Parts,
    open_keys_file as open_keys_file,
    serve_api as serve_api,
    volunteer_for_the_oom_killer as volunteer_for_the_oom_killer,
)
from .references import (
    is_path as is_path,
    named_folder as named_folder,
    registered as registered,
    spec_of_folder as spec_of_folder,
    version_of as version_of,
    versions_of as versions_of,
)
from .rollouts import running_rollouts as running_rollouts
from .scheduling import (
    ScheduleCommand as ScheduleCommand,
    running_schedules as running_schedules,
)
from .watched import facts_of as facts_of
