"""The contract of containers on Vertex AI: a health path and a predict path, both given to it.

The platform says the paths (`AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE`); the model is the first that
is served.
"""

from __future__ import annotations

from collections.abc import Iterator

from bascule.serving.calls import Call
from bascule.serving.codecs import JsonParser
from bascule.serving.execution import Predictor
from bascule.serving.protocols import by_row
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import health
from bascule.serving.transports import Exchange, Handler, Route

_EXAMPLE = '{"instances": [...]}'


class Vertex(by_row.OneModel):
    """See `data_plane.ProtocolAdapter`."""

    name = "vertex"

    def __init__(self, health_route: str, predict_route: str) -> None:
        self._health_route = health_route.encode()
        self._predict_route = predict_route.encode()
        self._parser = JsonParser(_EXAMPLE)

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """Both paths."""
        yield Route(b"GET", self._health_route, health(plane), "health")
        model = plane.first
        if model is not None:
            path, handle = self._predict_route, self._predict(model)
            about = by_row.about(model, "instances", parameters=("parameters", self.name))
            yield Route(b"POST", path, handle, model.needs, model.name, model.series, about)

    def _predict(self, model: Predictor) -> Handler:
        reader = by_row.table_reader(model)

        def read(_: Exchange, body: bytes, parser: JsonParser) -> tuple[Call, by_row.Form]:
            given = by_row.an_object(parser.plain(body), _EXAMPLE)
            by_row.the_one_of(given, ("instances",), ("parameters",))
            table = reader.rows(given["instances"], "instances")
            asked = given.get("parameters")
            call = by_row.call_for(model, table, asked, "parameters", self.name)
            return call, by_row.PREDICTIONS

        return by_row.handler(model, read, self._parser)
