from . import durations as durations
from .bandits import (
    Estimate as Estimate,
    linear_posterior as linear_posterior,
    policy_value as policy_value,
    thompson_shares as thompson_shares,
)
from .conformal import (
    LOWER as LOWER,
    LOWER_QUANTILE as LOWER_QUANTILE,
    PREDICTION_SET as PREDICTION_SET,
    UPPER as UPPER,
    UPPER_QUANTILE as UPPER_QUANTILE,
    Calibration as Calibration,
    calibrate as calibrate,
    methods_for as methods_for,
)
from .counting import beta_binomial_below as beta_binomial_below, exact_interval as exact_interval
from .detectors import (
    WINDOWS as WINDOWS,
    SlowDetector as SlowDetector,
    WeekdayOutcome as WeekdayOutcome,
    variance_beside_a_step as variance_beside_a_step,
    weekday_test as weekday_test,
)
from .harm import HarmDetector as HarmDetector, risk_bounds as risk_bounds
from .late import decisive_cohorts as decisive_cohorts, late_proportions as late_proportions
from .membership import epsilon_bound as epsilon_bound
from .outliers import (
    DEPTH as DEPTH,
    TREE_ROWS as TREE_ROWS,
    OutlierScorer as OutlierScorer,
    scales_of as scales_of,
    split as split,
    usual_depth as usual_depth,
)
from .paired import (
    CONFIDENCE as CONFIDENCE,
    RESAMPLES as RESAMPLES,
    Comparison as Comparison,
    Difference as Difference,
    bootstrap as bootstrap,
    compare_right as compare_right,
    roc_auc_difference as roc_auc_difference,
    student_quantile as student_quantile,
)
from .planning import (
    SPREAD as SPREAD,
    Detection as Detection,
    requests_for_means as requests_for_means,
    requests_to_compare_durations as requests_to_compare_durations,
    requests_to_promote as requests_to_promote,
    requests_to_roll_back as requests_to_roll_back,
)
from .projecting import (
    MIN_VALUES as MIN_VALUES,
    field_of_projection as field_of_projection,
    projected_names as projected_names,
    projections as projections,
    worth_projecting as worth_projecting,
)
from .queries import (
    MIN_KNOWN as MIN_KNOWN,
    MOST_QUERIES as MOST_QUERIES,
    QUERIES as QUERIES,
    KnownRows as KnownRows,
    query_distances as query_distances,
    shapiro_wilk as shapiro_wilk,
)
from .rectified import (
    JudgeCalibration as JudgeCalibration,
    calibrate_judge as calibrate_judge,
)
from .sequential import (
    INTERVAL_REQUESTS as INTERVAL_REQUESTS,
    Beyond as Beyond,
    Evidence as Evidence,
    culprits as culprits,
    log_mean as log_mean,
    mcnemar as mcnemar,
    quantiles as quantiles,
    rate_distances as rate_distances,
    split_log_e as split_log_e,
    two_proportions as two_proportions,
)
from .sketches import (
    CHUNK_ROWS as CHUNK_ROWS,
    Alignment as Alignment,
    ColumnProfile as ColumnProfile,
    Profile as Profile,
    Value as Value,
)
from .slices import WrongShares as WrongShares
from .tails import hypergeometric_tail as hypergeometric_tail, student_tail as student_tail
from .texts import edit_distance as edit_distance
from .two_sample import (
    CategoryBaseline as CategoryBaseline,
    NumberBaseline as NumberBaseline,
    Outcome as Outcome,
    Scores as Scores,
    effective_rows as effective_rows,
    missing_test as missing_test,
    range_test as range_test,
    shrunk as shrunk,
)
from .watermarks import binomial_tails as binomial_tails, shares_p_value as shares_p_value
from .windows import WindowProfile as WindowProfile
