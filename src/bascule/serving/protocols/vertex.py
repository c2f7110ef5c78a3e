"""Vertex AI: the contract of its containers, and the paths that its clients ask.

The platform says the paths of a container (`AIP_HEALTH_ROUTE`, `AIP_PREDICT_ROUTE`); the model is
the first that is served. There it hands on the bodies of `raw_predict` as they came, of any media
type. Its clients name an endpoint by a resource, whose last name is a model here;
`transports.http1` reads every project and location as `-`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bascule.core import BasculeError
from bascule.serving.calls import Call
from bascule.serving.codecs import JsonParser
from bascule.serving.execution import Predictor
from bascule.serving.protocols import by_row, media
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.describing import health, missing
from bascule.serving.transports import Exchange, Handler, Route

_EXAMPLE = '{"instances": [...]}'
_ENDPOINTS = b"/v1/projects/-/locations/-/endpoints/"


class Vertex:
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
            yield self._route(self._predict_route, model)

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """A default version as an endpoint, for predictions and for raw predictions."""
        if plane.is_default(model):
            for method in (b":predict", b":rawPredict"):
                yield self._route(_ENDPOINTS + model.name.encode() + method, model)

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which model is not there."""
        _, name = path.decode("utf-8", "replace").rpartition("/endpoints/")[1:]
        is_endpoint = path.startswith(b"/v1/projects/") and name
        return missing(plane, name.partition(":")[0]) if is_endpoint else None

    def _route(self, path: bytes, model: Predictor) -> Route:
        names = "parameters", self.name
        about = by_row.about(model, "instances", other_types=media.OTHER_TYPES, parameters=names)
        handle = self._predict(model)
        return Route(b"POST", path, handle, model.needs, model.name, model.series, about)

    def _predict(self, model: Predictor) -> Handler:
        reader = by_row.table_reader(model)

        def read(exchange: Exchange, body: bytes, parser: JsonParser) -> tuple[Call, by_row.Form]:
            table, asked = media.read_rows(exchange, body, parser, reader), None
            if table is None:
                given = by_row.an_object(parser.plain(body), _EXAMPLE)
                by_row.the_one_of(given, ("instances",), ("parameters",))
                table = reader.rows(given["instances"], "instances")
                asked = given.get("parameters")
            call = by_row.call_for(model, table, asked, "parameters", self.name)
            return call, media.answer_form(exchange, call, "parameters")

        return by_row.handler(model, read, self._parser)
