"""Extra outputs: more fields of an answer, made from the rows and the model's own outputs.

One file each, one line each in the table. Serving adds them to the answers of the requests that ask
for them, each with the rows of its own request. `Bundle.predict` knows `confidence` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bascule.bundle.disk import Manifest
from bascule.core import Columns, Field

EXTRAS: dict[str, str] = {
    "confidence": "bascule.bundle.extras.confidence:open_confidence",
}
"""Openers by the name of the extra. Each takes the bundle's folder, its manifest and a default, and
returns an `Extra`; one without fields where the bundle cannot support it."""


class Wanted(NamedTuple):
    """An extra that a request asks for.

    Attributes:
        extra: Which one.
        settings: What its parameters said, checked; in the extra's own form.
        always: Whether its fields are added even where the request lists other outputs.
    """

    extra: Extra
    settings: Any
    always: bool = True


class Extra(Protocol):
    """One kind of extra output of one bundle.

    Attributes:
        name: As in the table, and of its parameter.
        fields: What it adds to an answer; empty where the bundle cannot support it.
        needs: The model's own outputs that `add` reads.
        by_default: Wanted where a request says nothing; None for nothing.
        row_cost_s: What a row costs, about. Serving keeps what takes long off its event loop.
    """

    name: str
    fields: tuple[Field, ...]
    needs: tuple[str, ...]
    by_default: Wanted | None
    row_cost_s: float

    def read(self, parameters: Mapping[str, Any]) -> Wanted | None:
        """The wish in a request's `parameters`; other parameters are not looked at.

        Raises:
            Invalid: The parameters are malformed, or the bundle cannot support them.
        """

    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:
        """The fields for all rows; may be called from any thread, and changes no argument.

        Args:
            inputs: As the program reads them.
            outputs: The model's own; those in `needs` are there.
            settings: Of a `Wanted`.
        """

    def metadata(self) -> dict[str, Any]:
        """What the model's metadata says of it: flat, names begin with the extra's."""


def open_extras(
    path: Path, manifest: Manifest, defaults: Mapping[str, Any] | None = None
) -> tuple[Extra, ...]:
    """Every extra of the table, for one bundle.

    Args:
        path: The bundle's folder, verified.
        manifest: Of it.
        defaults: By the name of an extra, what is added where a request says nothing.

    Raises:
        Invalid: The bundle cannot support a default.
    """
    made = []
    for name, place in EXTRAS.items():
        module, _, opener = place.partition(":")
        open_one: Any = getattr(import_module(module), opener)
        made.append(open_one(path, manifest, (defaults or {}).get(name)))
    return tuple(made)
