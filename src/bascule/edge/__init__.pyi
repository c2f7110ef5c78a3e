from .channels import Candidate as Candidate, Channel as Channel, Offer as Offer
from .deltas import (
    Archive as Archive,
    compress as compress,
    difference as difference,
    expand as expand,
    pack as pack,
    unpack as unpack,
)
from .fetching import Obtained as Obtained, Repository as Repository, hex_of as hex_of
from .trusting import Trust as Trust, connection as connection
