from . import (
    adversarial as adversarial,
    asking as asking,
    calibrating as calibrating,
    company as company,
    cost as cost,
    jumps as jumps,
    outlying as outlying,
    parity as parity,
    profiling as profiling,
    training as training,
)
from .adversarial import ComparedRows as ComparedRows
from .cost import machine as machine
from .privacy import claimed_privacy as claimed_privacy
