from .calibration import (
    calibration_error as calibration_error,
    isotonic as isotonic,
    reliability_curve as reliability_curve,
)
from .estimates import Estimate as Estimate, Labelled as Labelled, estimate as estimate
from .fairness import (
    DISPARITIES as DISPARITIES,
    FEWEST_IN_GROUP as FEWEST_IN_GROUP,
    Disparity as Disparity,
    GroupedRows as GroupedRows,
    disparity as disparity,
    group_rows as group_rows,
    says_enough as says_enough,
)
from .intervals import wilson_interval as wilson_interval
from .orders import concordance as concordance, ndcg as ndcg
from .scores import OUTLIERS as OUTLIERS, score as score
from .table import (
    METRICS as METRICS,
    SCORERS as SCORERS,
    SHORT_NAMES as SHORT_NAMES,
    Metric as Metric,
    is_error as is_error,
    metric_of as metric_of,
)
