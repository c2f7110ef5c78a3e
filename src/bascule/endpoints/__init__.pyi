from .deploying import (
    Deployed as Deployed,
    EndpointBook as EndpointBook,
    Endpoints as Endpoints,
)
from .plans import (
    CANDIDATE as CANDIDATE,
    CURRENT as CURRENT,
    PREVIOUS as PREVIOUS,
    Arm as Arm,
    BreakerRule as BreakerRule,
    CallLimits as CallLimits,
    Plan as Plan,
    Shadow as Shadow,
    choose as choose,
    splits as splits,
    unit as unit,
)
from .records import (
    Endpoint as Endpoint,
    PlanEvent as PlanEvent,
    StoredPlan as StoredPlan,
)
from .remote import RemoteEndpoints as RemoteEndpoints
from .store import EndpointStore as EndpointStore
from .strategies import STRATEGIES as STRATEGIES
