from . import golden as golden
from .agent import Agent as Agent
from .channels import Candidate as Candidate, Channel as Channel, Offer as Offer
from .deciding import Plan as Plan
from .deltas import (
    Archive as Archive,
    compress as compress,
    difference as difference,
    expand as expand,
    pack as pack,
    unpack as unpack,
)
from .device import Device as Device
from .fetching import Repository as Repository, hex_of as hex_of
from .golden import (
    GOLDEN as GOLDEN,
    check_golden as check_golden,
    device_statements as device_statements,
    lay_statements as lay_statements,
)
from .measuring import Timing as Timing
from .slots import Home as Home, State as State
from .trusting import Trust as Trust, connection as connection
