from .limits import Limits as Limits
from .specs import (
    ModelSpec as ModelSpec,
    ModelSpecs as ModelSpecs,
    Plans as Plans,
    check_unplanned as check_unplanned,
    default_of as default_of,
    loaded as loaded,
    planned as planned,
    swapped as swapped,
    unloaded as unloaded,
    without as without,
)
