from .asking import (
    RolloutRequest as RolloutRequest,
    Rollouts as Rollouts,
    superseded as superseded,
)
from .counting import (
    Stage as Stage,
    count_outcomes as count_outcomes,
    stages_of as stages_of,
)
from .deciding import (
    Command as Command,
    decide as decide,
    obey as obey,
    replay as replay,
    start as start,
)
from .drawing import evidence_chart as evidence_chart
from .evidence import (
    NO_COHORTS as NO_COHORTS,
    NO_COUNTS as NO_COUNTS,
    ArmCounts as ArmCounts,
    Cohort as Cohort,
    CohortArm as CohortArm,
    Cohorts as Cohorts,
    Interval as Interval,
    summed as summed,
    table_of as table_of,
)
from .facts import odds as odds
from .following import AliasFollower as AliasFollower
from .forecast import Begun as Begun, forecast as forecast
from .guards import (
    DEFAULT_GUARDS as DEFAULT_GUARDS,
    Guard as Guard,
    check_limits as check_limits,
    judge as judge,
    limits_of as limits_of,
    parse_guard as parse_guard,
)
from .keys import Cell as Cell, Told as Told, cells_of as cells_of, packed as packed
from .losses import Loss as Loss
from .operations import (
    Deleted as Deleted,
    Deployment as Deployment,
    Evidence as Evidence,
    Replay as Replay,
)
from .plan import (
    Decision as Decision,
    LoadFailure as LoadFailure,
    Rollout as Rollout,
    Shares as Shares,
    StoredDecision as StoredDecision,
    StoredRollout as StoredRollout,
    check_rollout as check_rollout,
)
from .preparing import Recording as Recording, prepare as prepare
from .remote import RemoteRollouts as RemoteRollouts, RolloutBook as RolloutBook
from .states import (
    FINAL as FINAL,
    Aborted as Aborted,
    Baking as Baking,
    Passed as Passed,
    Paused as Paused,
    Promoted as Promoted,
    Running as Running,
    State as State,
    Waiting as Waiting,
)
from .store import (
    RolloutStore as RolloutStore,
    plan_of as plan_of,
    rollouts_needing as rollouts_needing,
)
from .valuing import SteeredValues as SteeredValues
from .verdicts import RolloutVerdict as RolloutVerdict, verdict_of as verdict_of
