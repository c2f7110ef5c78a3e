"""The protocols of the server: each turns the bytes of one protocol into calls, and answers back.

One file each, one line each in the table. A protocol finds models through `data_plane.DataPlane`,
makes a `serving.calls.Call` of a request, and has `Predictor.answer` run it.
"""

from __future__ import annotations

from typing import Any

from bascule.core import load_named
from bascule.serving.protocols.chosen import EVERY_PROTOCOL, ChosenProtocols
from bascule.serving.protocols.data_plane import ProtocolAdapter
from bascule.serving.protocols.load_requests import LoadRequests

PROTOCOLS: dict[str, str] = {
    "oip": "bascule.serving.protocols.oip_rest:OipRest",
    "tfserving": "bascule.serving.protocols.tfserving:TfServing",
    "invocations": "bascule.serving.protocols.invocations:Invocations",
    "vertex": "bascule.serving.protocols.vertex:Vertex",
    "azureml": "bascule.serving.protocols.azureml:AzureMl",
    "openai": "bascule.serving.protocols.openai:OpenAi",
}
"""Protocols by name; each is imported when a server that speaks it starts."""


def open_protocols(
    chosen: ChosenProtocols = EVERY_PROTOCOL, wishes: LoadRequests | None = None
) -> list[ProtocolAdapter]:
    """The protocols that were chosen, in the order of the table; all where nothing is said.

    `wishes` takes what callers want to have loaded and unloaded; None where they may not.
    """
    protocols: list[ProtocolAdapter] = []
    for name, place in PROTOCOLS.items():
        if name not in chosen.names:
            continue
        options: dict[str, Any] = {}
        if name == "vertex":
            options = {
                "health_route": chosen.vertex_health_route,
                "predict_route": chosen.vertex_predict_route,
            }
        elif name == "invocations":
            options = {"wishes": wishes}
        elif name == "openai":
            options = {"describes_models": "tfserving" not in chosen.names}
        protocols.append(load_named(place)(**options))
    return protocols
