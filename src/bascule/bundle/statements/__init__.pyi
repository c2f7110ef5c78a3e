from . import (
    adversarial as adversarial,
    asking as asking,
    calibrating as calibrating,
    company as company,
    cost as cost,
    environment as environment,
    jumps as jumps,
    parity as parity,
    profiling as profiling,
    training as training,
)
from .adversarial import ComparedRows as ComparedRows
from .baseline import (
    Baseline as Baseline,
    answer_columns as answer_columns,
    column_names as column_names,
    non_finite_answers as non_finite_answers,
    profile_columns as profile_columns,
    profile_of as profile_of,
    read_baseline as read_baseline,
    split_columns as split_columns,
)
from .calibrating import CALIBRATION_KIND as CALIBRATION_KIND, hashes_of as hashes_of
from .calibration import read_calibration as read_calibration
from .cost import BATCH_SIZES as BATCH_SIZES, Cost as Cost, cpu_name as cpu_name, machine as machine
from .parity import USUAL as USUAL, Parity as Parity, in_batches as in_batches
from .training import (
    TRAINING_KIND as TRAINING_KIND,
    Training as Training,
    flat_columns as flat_columns,
    row_hashes as row_hashes,
)
