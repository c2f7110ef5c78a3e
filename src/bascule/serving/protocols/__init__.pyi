from . import snippets as snippets
from .chosen import (
    EVERY_PROTOCOL as EVERY_PROTOCOL,
    ChosenProtocols as ChosenProtocols,
    choose_protocols as choose_protocols,
)
from .data_plane import DataPlane as DataPlane, ProtocolAdapter as ProtocolAdapter
from .grpc_methods import grpc_methods as grpc_methods
from .load_requests import LoadRequests as LoadRequests
from .metrics import Metrics as Metrics
from .oip_json import Decoded as Decoded, Decoder as Decoder, encoder as encoder
from .outcome_writer import OutcomeWriter as OutcomeWriter
from .outcomes_rest import OutcomesRest as OutcomesRest
from .table import open_protocols as open_protocols
