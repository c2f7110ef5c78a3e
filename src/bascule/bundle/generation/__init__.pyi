from .chunks import Chunk as Chunk, Usage as Usage, joined as joined
from .hosting import chunk_of as chunk_of
from .opening import open_generation as open_generation, open_scorer as open_scorer
from .requests import (
    EXAMPLE as EXAMPLE,
    INPUTS as INPUTS,
    OUTPUTS as OUTPUTS,
    check_defaults as check_defaults,
    parse_request as parse_request,
)
from .specs import FILE as FILE, Spec as Spec, spec_of as spec_of
from .upstream import UPSTREAMS as UPSTREAMS
