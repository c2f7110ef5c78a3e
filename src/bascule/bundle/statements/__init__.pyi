from . import parity as parity
from .baseline import (
    Baseline as Baseline,
    answer_columns as answer_columns,
    column_names as column_names,
    names_of_projections as names_of_projections,
    non_finite_answers as non_finite_answers,
    profile_columns as profile_columns,
    profile_of as profile_of,
    read_baseline as read_baseline,
    split_columns as split_columns,
)
from .calibration import (
    CALIBRATION_KIND as CALIBRATION_KIND,
    hashes_of as hashes_of,
    read_calibration as read_calibration,
)
from .cost import BATCH_SIZES as BATCH_SIZES, Cost as Cost, cpu_name as cpu_name
from .parity import (
    USUAL as USUAL,
    Parity as Parity,
    apart as apart,
    in_batches as in_batches,
    row_differences as row_differences,
)
from .privacy import (
    MEMBERSHIP_KIND as MEMBERSHIP_KIND,
    PRIVACY_KIND as PRIVACY_KIND,
    MembershipAudit as MembershipAudit,
    PrivacyClaim as PrivacyClaim,
)
from .training import (
    TRAINING_KIND as TRAINING_KIND,
    Training as Training,
    flat_columns as flat_columns,
    row_hashes as row_hashes,
)
