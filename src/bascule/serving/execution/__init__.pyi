from .admission import (
    BESIDE_CALL_BYTES as BESIDE_CALL_BYTES,
    SHORT_BYTES as SHORT_BYTES,
    TURN_S as TURN_S,
    AdmissionQueue as AdmissionQueue,
    BufferBudget as BufferBudget,
    Client as Client,
    Waiting as Waiting,
)
from .deprecated import DeprecatedPredictor as DeprecatedPredictor
from .engine import Engine as Engine, measure_pace as measure_pace
from .extras import (
    NO_EXTRAS as NO_EXTRAS,
    Extras as Extras,
    added as added,
    needed as needed,
)
from .meters import Meters as Meters
from .planned import (
    PlannedArm as PlannedArm,
    PlannedPredictor as PlannedPredictor,
    decoded_into as decoded_into,
)
from .policies import (
    OWN_SECTION as OWN_SECTION,
    POLICIES as POLICIES,
    CallerFacts as CallerFacts,
    Chain as Chain,
    PolicyFacts as PolicyFacts,
    around as around,
    check_chain as check_chain,
    read_chain as read_chain,
    values_of_keys as values_of_keys,
)
from .predictors import (
    AroundPredictor as AroundPredictor,
    Facts as Facts,
    Predictor as Predictor,
    embedding_of as embedding_of,
)
from .resilience import ResiliencePolicy as ResiliencePolicy
from .served import ServedModel as ServedModel
from .shadows import (
    PAIRS_SHARE as PAIRS_SHARE,
    PairRunner as PairRunner,
    ShadowRunner as ShadowRunner,
)
from .switching import switching_within as switching_within
from .watchdog import watch_loop as watch_loop
