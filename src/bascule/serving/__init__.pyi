from .limits import Limits as Limits
from .specs import (
    ModelSpec as ModelSpec,
    ModelSpecs as ModelSpecs,
    default_of as default_of,
    loaded as loaded,
    swapped as swapped,
    unloaded as unloaded,
    without as without,
)
