"""All that is answered over gRPC."""

from __future__ import annotations

from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.grpc_services import Health, Reflection
from bascule.serving.protocols.oip_grpc import OipGrpc
from bascule.serving.protocols.outcome_writer import OutcomeWriter
from bascule.serving.protocols.outcomes_grpc import OutcomesGrpc
from bascule.serving.transports import Methods


def grpc_methods(plane: DataPlane, outcomes: OutcomeWriter | None = None) -> Methods:
    """The methods over what the plane serves, now and after it has changed.

    `outcomes` keeps outcomes; without it their service answers UNIMPLEMENTED.
    """
    reflection = Reflection()
    health = Health(plane, reflection.services)
    taken = () if outcomes is None else (OutcomesGrpc(plane, outcomes),)
    return {
        method.path: method
        for offers in (OipGrpc(plane), *taken, health, reflection)
        for method in offers.methods()
    }
