from .child import asking as asking, runner_of as runner_of
from .kind_table import KINDS as KINDS
from .reports import judging as judging
from .running import run_job as run_job
