from .keys import Keys as Keys, key_in as key_in
from .operations import (
    Device as Device,
    Enrolled as Enrolled,
    RemoteFleet as RemoteFleet,
    SampledRows as SampledRows,
    StoredDeviceRollout as StoredDeviceRollout,
)
from .publishing import (
    Published as Published,
    RepositoryChannels as RepositoryChannels,
    publish as publish,
    record as record,
)
from .reports import read_reports as read_reports
from .repository import TufRepository as TufRepository
from .rollouts import (
    HOLD_S as HOLD_S,
    LOOKS as LOOKS,
    PHASES as PHASES,
    DevicePlan as DevicePlan,
    Seen as Seen,
    candidate_of as candidate_of,
    decide as decide,
)
from .store import Fleet as Fleet, FleetBook as FleetBook
