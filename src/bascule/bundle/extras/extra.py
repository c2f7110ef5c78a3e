"""An extra output: more fields of an answer, computed from the rows and the model's own outputs.

Its class declares all that others need to know of it: parameters, cost, where it may be asked for,
which files of a bundle it needs. Protocols, the OpenAPI document, `Bundle.predict`, batch jobs,
commands, MLflow and the console follow from the declaration; none of them names an extra output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import msgspec
import numpy as np

from bascule.bundle.disk import Manifest
from bascule.core import Columns, Field, Invalid

PLACES = ("oip", "grpc", "invocations", "vertex", "azureml", "batch")
"""Where a request has a place for parameters: protocols, and batch jobs."""

_ABSENT = object()


class Parameter(NamedTuple):
    """A parameter of an extra output.

    Attributes:
        name: In requests. The first parameter of an extra output has its name, and asks for it.
        type: As msgspec reads it, with the bounds: `Annotated[float, msgspec.Meta(gt=0)]`.
        expected: What a value must be, in words: `a number over 0`.
        about: A sentence for documents and forms.
        usual: A value for examples; a batch job that lists the fields and gives no value has it.
        hint: The next step where a value is refused.
    """

    name: str
    type: Any
    expected: str
    about: str
    usual: Any = None
    hint: str = ""

    def check(self, value: Any, *, is_text: bool = False) -> Any:
        """The value in the type; raises `Invalid`. `is_text`: it is of a form or a command."""
        plain = value.item() if isinstance(value, np.generic) else value
        try:
            return msgspec.convert(plain, self.type, strict=not is_text)
        except msgspec.ValidationError:
            shown = repr(value)[:32] if isinstance(value, float | int | str) else "this"
            raise Invalid(
                f"{self.name}: {shown} is not {self.expected}", hint=self.hint, field=self.name
            ) from None

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema; null is as if it were left out."""
        return {**msgspec.json.schema(self.type | None), "description": self.about}


class ExtraRequest(NamedTuple):
    """A request for one extra output.

    Attributes:
        extra: The extra output.
        settings: The checked values of its parameters, in their order; None where not given.
        always: Whether its fields are added even if the request lists other outputs.
    """

    extra: Extra
    settings: Any
    always: bool = True


class Extra(ABC):
    """One extra output: declared by its class, and opened for one bundle.

    Attributes:
        name: As in the table, and of its first parameter.
        parameters: What a request says; of a bundle, as narrow as this is.
        outputs: The fields that it may add, by the names that a batch job lists them with.
        places: Where it may be asked for, of `PLACES`.
        row_cost_s: The approximate time for one row. Serving adds cheap ones on the event loop and
            slow ones on a thread; `math.inf` is always on a thread.
        files: The files of a bundle that it needs; packing writes them where it can.
        lack: Why a bundle may not support it, and the next step.
        fields: What it adds to an answer of this bundle; empty where that cannot support it.
        needs: The model's own outputs that `add` reads.
        by_default: For requests that do not set its first parameter; None to add nothing.
    """

    name: ClassVar[str]
    parameters: tuple[Parameter, ...]
    outputs: ClassVar[Mapping[str, tuple[str, ...]]]
    places: ClassVar[tuple[str, ...]] = PLACES
    row_cost_s: float
    files: ClassVar[tuple[str, ...]] = ()
    lack: ClassVar[tuple[str, str]] = ("the model does not support it", "")

    def __init__(
        self, fields: tuple[Field, ...], needs: tuple[str, ...] = (), default: Any = None
    ) -> None:
        """`default` is the first parameter of `by_default`, False or None for none.

        Raises:
            Invalid: The bundle cannot support the default.
        """
        self.fields = fields
        self.needs = needs
        # By type as well: 1 and True are one key.
        self._known: Callable[..., ExtraRequest] = lru_cache(256, typed=True)(self.request)
        self.by_default: ExtraRequest | None = None
        if default and fields:
            others = (None,) * (len(self.parameters) - 1)
            self.by_default = self._known(default, *others)._replace(always=False)
            self._default = default

    @classmethod
    @abstractmethod
    def open(cls, path: Path, manifest: Manifest, default: Any) -> Self:
        """That of the bundle at `path`; one without fields where the bundle cannot support it."""

    @classmethod
    def is_supported(cls, manifest: Manifest) -> bool:
        """Whether a bundle has the files that it needs."""
        return all(name in manifest.files for name in cls.files)

    def read(self, parameters: Mapping[str, Any]) -> ExtraRequest | None:
        """What the `parameters` of a request ask for; ignores the parameters of others.

        Raises:
            Invalid: The parameters are malformed, or the bundle cannot support them.
        """
        first = parameters.get(self.name, _ABSENT)
        if first is None or (first is _ABSENT and self.by_default is None):
            for one in self.parameters[1:] if parameters and self.fields else ():
                if parameters.get(one.name) is not None:
                    one.check(parameters.get(one.name))
            return None
        others = [parameters.get(one.name) for one in self.parameters[1:]]
        if first is _ABSENT:
            if others.count(None) == len(others):
                return self.by_default
            first = self._default
        # Only what can be a key is looked up; the rest is refused in full words.
        is_plain = all(isinstance(one, float | int | str | None) for one in (first, *others))
        return (self._known if is_plain else self.request)(first, *others)

    def request(self, *values: Any) -> ExtraRequest:
        """The request with these values, None where one is not given.

        Raises:
            Invalid: A value is malformed, or the bundle cannot support it.
        """
        checked = tuple(
            None if value is None else parameter.check(value)
            for parameter, value in zip(self.parameters, values, strict=True)
        )
        if not self.fields:
            lack, hint = self.lack
            raise Invalid(f"parameters.{self.name}: {lack}", hint=hint)
        return ExtraRequest(self, checked)

    def for_every_request(self, first: Any) -> Self:
        """The same, added to every answer with this first parameter; raises `Invalid`."""
        made = copy(self)
        made._default, made._known = first, made.request
        made.by_default = made.request(first, *(None,) * (len(self.parameters) - 1))
        return made

    @abstractmethod
    def add(self, inputs: Columns, outputs: Columns, settings: Any) -> Columns:
        """The fields for all rows; may be called from any thread, and changes no argument.

        Args:
            inputs: As the program reads them.
            outputs: The model's own; those in `needs` are there.
            settings: Of an `ExtraRequest`.
        """

    def metadata(self) -> dict[str, Any]:
        """Its entries in the model's metadata: flat, with names that begin with its own."""
        if not self.fields:
            return {}
        entries = {f"{self.name}_adds": ",".join(field.name for field in self.fields)}
        return entries | ({} if self.by_default is None else {self.name: self._default})
