from . import golden as golden
from .agent import Agent as Agent
from .channels import Candidate as Candidate, Channel as Channel, Offer as Offer
from .deciding import Plan as Plan
from .device import Device as Device
from .golden import (
    GOLDEN as GOLDEN,
    check_golden as check_golden,
    device_statements as device_statements,
    lay_statements as lay_statements,
)
from .slots import Home as Home, State as State
