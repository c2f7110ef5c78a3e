from .calls import (
    Answer as Answer,
    AnsweredBy as AnsweredBy,
    Call as Call,
    new_prediction_id as new_prediction_id,
)
from .limits import Limits as Limits
from .specs import (
    ModelSpec as ModelSpec,
    ModelSpecs as ModelSpecs,
    Notice as Notice,
    Plans as Plans,
    check_unplanned as check_unplanned,
    default_of as default_of,
    is_the_same as is_the_same,
    loaded as loaded,
    noticed as noticed,
    planned as planned,
    swapped as swapped,
    unloaded as unloaded,
    without as without,
)
