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
    Plan as Plan,
    Shadow as Shadow,
    choose as choose,
)
from .records import (
    Endpoint as Endpoint,
    PlanEvent as PlanEvent,
    StoredPlan as StoredPlan,
)
from .remote import RemoteEndpoints as RemoteEndpoints
from .store import EndpointStore as EndpointStore
from .strategies import STRATEGIES as STRATEGIES
