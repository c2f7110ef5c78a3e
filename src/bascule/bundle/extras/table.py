"""Extra outputs: more fields of an answer, computed from the rows and the model's own outputs.

One file each, one line each in the table. Serving adds them to the answers of the requests that ask
for them, each with the rows of its own request. `Bundle.predict` knows `confidence` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bascule.bundle.disk import Manifest
from bascule.core import Columns, Field, load_named

EXTRAS: dict[str, str] = {"confidence": "bascule.bundle.extras.confidence:open_confidence"}
"""Openers by the name of the extra. Each takes the bundle's folder, its manifest and a default, and
returns an `Extra`; one without fields where the bundle cannot support it."""


class ExtraRequest(NamedTuple):
    """A request for one extra output.

    Attributes:
        extra: The extra output.
        settings: Its checked parameters, in a form of its own.
        always: Whether its fields are added even if the request lists other outputs.
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
        by_default: For requests that do not set its parameter; None to add nothing.
        row_cost_s: The approximate time for one row. Serving runs slow ones on a thread.
    """

    name: str
    fields: tuple[Field, ...]
    needs: tuple[str, ...]
    by_default: ExtraRequest | None
    row_cost_s: float

    def read(self, parameters: Mapping[str, Any]) -> ExtraRequest | None:
        """What the `parameters` of a request ask for; ignores the parameters of others.

        Raises:
            Invalid: The parameters are malformed, or the bundle cannot support them.
        """

    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:
        """The fields for all rows; may be called from any thread, and changes no argument.

        Args:
            inputs: As the program reads them.
            outputs: The model's own; those in `needs` are there.
            settings: Of an `ExtraRequest`.
        """

    def metadata(self) -> dict[str, Any]:
        """Its entries in the model's metadata: flat, with names that begin with its own."""


def open_extras(
    path: Path, manifest: Manifest, defaults: Mapping[str, Any] | None = None
) -> tuple[Extra, ...]:
    """Every extra of the table, for one bundle.

    Args:
        path: The bundle's folder, verified.
        manifest: Of it.
        defaults: The default parameters of an extra output, by its name.

    Raises:
        Invalid: The bundle cannot support a default.
    """
    named = (defaults or {}).get
    return tuple(load_named(at)(path, manifest, named(name)) for name, at in EXTRAS.items())
