from .choosing import (
    Goals as Goals,
    Load as Load,
    Plan as Plan,
    Prices as Prices,
    choose as choose,
    instances_for as instances_for,
    rates_of as rates_of,
)
from .measuring import (
    CAPACITY_KIND as CAPACITY_KIND,
    measure as measure,
    measured_of as measured_of,
    request_body as request_body,
    service_of as service_of,
)
from .queueing import (
    Estimate as Estimate,
    Service as Service,
    capacity_hz as capacity_hz,
    forecast as forecast,
    simulate as simulate,
)
