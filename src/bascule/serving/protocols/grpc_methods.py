"""All that is answered over gRPC."""

from __future__ import annotations

from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.grpc_services import Health, Reflection
from bascule.serving.protocols.oip_grpc import OipGrpc
from bascule.serving.transports import Methods


def grpc_methods(plane: DataPlane) -> Methods:
    """The methods over what the plane serves, now and after it has changed."""
    reflection = Reflection()
    health = Health(plane, reflection.services)
    return {
        method.path: method
        for offers in (OipGrpc(plane), health, reflection)
        for method in offers.methods()
    }
