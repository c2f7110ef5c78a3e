from .conformal import (
    Calibration as Calibration,
    calibrate as calibrate,
    check_confidence as check_confidence,
    methods_for as methods_for,
)
from .counting import beta_binomial_below as beta_binomial_below, exact_interval as exact_interval
from .paired import (
    RESAMPLES as RESAMPLES,
    Comparison as Comparison,
    Difference as Difference,
    bootstrap as bootstrap,
    compare_right as compare_right,
    roc_auc_difference as roc_auc_difference,
)
from .sketches import CHUNK_ROWS as CHUNK_ROWS, ColumnProfile as ColumnProfile, Profile as Profile
