from .approving import Approve as Approve, by_anybody as by_anybody, by_nobody as by_nobody
from .changes import PlanChanges as PlanChanges
from .deploying import (
    Endpoints as Endpoints,
    follows_of as follows_of,
)
from .exchangeable import is_exchangeable as is_exchangeable
from .plans import (
    CANDIDATE as CANDIDATE,
    CURRENT as CURRENT,
    HOLDBACK as HOLDBACK,
    KEY_UNITS as KEY_UNITS,
    MAX_TIMED_PARTS as MAX_TIMED_PARTS,
    PREVIOUS as PREVIOUS,
    Arm as Arm,
    BreakerRule as BreakerRule,
    CallLimits as CallLimits,
    Plan as Plan,
    Shadow as Shadow,
    choose as choose,
    own_part as own_part,
    splits as splits,
    unit as unit,
)
from .records import (
    Deployed as Deployed,
    Endpoint as Endpoint,
    PlanEvent as PlanEvent,
    StoredEndpoint as StoredEndpoint,
    StoredPlan as StoredPlan,
)
from .remote import (
    EndpointBook as EndpointBook,
    RemoteEndpoints as RemoteEndpoints,
)
from .requests import (
    DeployRequest as DeployRequest,
    check_follow as check_follow,
    request_of as request_of,
)
from .steering import (
    LIMIT as LIMIT,
    ContextFeature as ContextFeature,
    ContextPolicy as ContextPolicy,
    context_of as context_of,
)
from .store import (
    EndpointStore as EndpointStore,
    Follows as Follows,
    Move as Move,
    plans_needing as plans_needing,
)
from .strategies import STRATEGIES as STRATEGIES
