"""The data plane: the models of one worker, and the routes that all protocols give them.

Protocols are asked for routes when what is served changes, never while a request is answered. The
table of routes is replaced as a whole, so a request sees either all of a change or nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from bascule.core import BasculeError, NotFound
from bascule.serving.execution import Predictor
from bascule.serving.protocols.openapi import document
from bascule.serving.transports import Route, Routes, table

_OF_CONTROL = (b"/api/", b"/docs", b"/redoc")
"""Paths of the control API, which is on a port of its own."""


class ProtocolAdapter(Protocol):
    """One protocol over the data plane; see `table.PROTOCOLS`, which has its name."""

    name: str

    def server_routes(self, plane: DataPlane) -> Iterator[Route]:
        """The routes that are there whatever is served."""

    def model_routes(self, plane: DataPlane, model: Predictor) -> Iterator[Route]:
        """The routes of one version; of the plain name too where it is the default version.

        They are kept for as long as the version is served, and are asked for again only when
        another version of the model comes or goes, or it becomes the default or the first model.
        """

    def not_found(self, plane: DataPlane, path: bytes) -> BasculeError | None:
        """Which part of a path names nothing; None if the path is not of this protocol."""


class DataPlane:
    """The models that a worker serves now."""

    def __init__(
        self,
        protocols: Sequence[ProtocolAdapter],
        is_ready: Callable[[], bool],
        *,
        asks_for_keys: bool = False,
        control_port: int | None = None,
    ) -> None:
        self._asks_for_keys = asks_for_keys
        self._protocols = protocols
        self._control_port = control_port
        self.is_ready = is_ready
        self.models: dict[str, dict[str, Predictor]] = {}
        """Predictors by name and version; the version of an endpoint is empty."""
        self.defaults: dict[str, Predictor] = {}
        """What the plain names ask."""
        self._table: Routes = {}
        self.asked_headers: frozenset[bytes] = frozenset()
        """The request headers that predictors read, in lower case: transports keep them."""
        self._described = b""
        self._kept: dict[tuple[int, Predictor], _Kept] = {}

    def serve(self, models: Iterable[Predictor]) -> Routes:
        """Serve exactly these from now on; returns the routes.

        The first version of a name is its default; the first model of all is the one that protocols
        without names speak to. A version that only a plan needs is no default.
        """
        served: dict[str, dict[str, Predictor]] = {}
        for model in models:
            served.setdefault(model.name, {})[model.service.version] = model
        firsts = {name: next(iter(versions.values())) for name, versions in served.items()}
        self.defaults = {name: one for name, one in firsts.items() if one.needs == "infer"}
        self.models = served
        self._described = b""
        self._table = table(self._routes())
        every = (model for versions in served.values() for model in versions.values())
        self.asked_headers = frozenset().union(*(model.asks_headers for model in every))
        return self._table

    def described(self) -> bytes:
        """The OpenAPI document of what is served now."""
        if not self._described:
            self._described = msgspec.json.encode(
                document(self._table, asks_for_keys=self._asks_for_keys)
            )
        return self._described

    @property
    def first(self) -> Predictor | None:
        """The default version of the first model, for protocols whose paths name none."""
        return next(iter(self.defaults.values()), None)

    def every_model(self) -> Iterator[Predictor]:
        """Every version that is served, the default version of each model first."""
        for name in self.models:
            yield from self.versions(name)

    def versions(self, name: str) -> list[Predictor]:
        """The versions of a name, the default one first; the endpoint where it has no others."""
        served = self.models[name]
        return [one for version, one in served.items() if version] or [*served.values()]

    def is_default(self, model: Predictor) -> bool:
        """Whether it is the version that answers to the plain name."""
        return self.defaults.get(model.name) is model

    def find(self, name: str, version: str | None = None) -> Predictor:
        """A model by name, and version or the default one; raises `NotFound`."""
        if version is None:
            found = self.defaults.get(name)
        else:
            found = self.models.get(name, {}).get(version)
        if found is None:
            raise self._no_such(name, version)
        return found

    def named(self, reference: str) -> Predictor:
        """A model by `NAME`, `NAME/VERSION` or `NAME@ALIAS`; raises `NotFound`."""
        name, is_version, version = reference.partition("/")
        if is_version:
            return self.find(name, version)
        name, is_alias, alias = reference.partition("@")
        default = self.find(name)
        if not is_alias or alias in default.service.labels:
            return default
        for model in reversed(self.versions(name)):
            if alias in model.service.labels:
                return model
        raise NotFound(
            f"no version of {name!r} here has the alias {alias[:128]!r}",
            hint="name it NAME/VERSION, or serve it by its alias",
        )

    def _no_such(self, name: str, version: str | None) -> NotFound:
        if version is None or name not in self.models:
            served = ", ".join(sorted(self.defaults)) or "no models"
            return NotFound(f"no model {name[:128]!r} here", hint=f"served are: {served}")
        return NotFound(
            f"no version {version[:128]!r} of {name!r} here",
            hint=f"served are: {', '.join(one.version for one in self.versions(name))}",
        )

    def not_found(self, path: bytes) -> BasculeError:
        """Say which part of a path names nothing."""
        for protocol in self._protocols:
            told = protocol.not_found(self, path)
            if told is not None:
                told.facts["protocol"] = protocol.name
                return told
        if self._control_port is not None and path.startswith(_OF_CONTROL):
            return NotFound(
                "no such path on the port of predictions",
                hint=f"the control API, with /docs, is on port {self._control_port}",
            )
        return NotFound("no such path", hint="GET /v2 describes the server")

    def _routes(self) -> Iterator[Route]:
        # Requests wait while this is done, and to make the routes of hundreds of models takes long.
        before, self._kept = self._kept, {}
        first = self.first
        for place, protocol in enumerate(self._protocols):
            for route in protocol.server_routes(self):
                yield route._replace(protocol=protocol.name)
            for versions in self.models.values():
                for model in versions.values():
                    labels = (one.service.labels for one in versions.values())
                    facts = (
                        model is first, self.is_default(model), model.needs, *versions, *labels
                    )  # fmt: skip
                    key = place, model
                    kept = before.get(key)
                    if kept is None or kept.facts != facts:
                        routes = protocol.model_routes(self, model)
                        named = (one._replace(protocol=protocol.name) for one in routes)
                        kept = _Kept(facts, tuple(named))
                    self._kept[key] = kept
                    yield from kept.routes


class _Kept(NamedTuple):
    """The routes that a protocol gave a model, and what they were made of."""

    facts: tuple[object, ...]
    routes: tuple[Route, ...]
