"""A network of PyTorch or Keras as a program: named tensors in, named tensors out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from bascule.bundle.tables import as_dtype
from bascule.core import Columns, Field, Invalid, ModelFailed, Program, first_line

_ONE = "output"
_FIRST = ("label", "probabilities")

AskNetwork = Callable[[Columns], Mapping[str, NDArray[Any]]]
"""Asks a network: all outputs by name. Raises the errors of its library."""


class NetworkProgram(Program):
    """A network as a program, in its own library."""

    name = "original"

    def __init__(
        self, ask: AskNetwork, inputs: tuple[Field, ...], outputs: tuple[Field, ...]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._ask = ask

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`."""
        try:
            found = self._ask(columns)
        except Exception as problem:  # a library, or the user's code, may raise anything
            raise ModelFailed(f"the original failed: {first_line(problem)}") from problem
        known = {field.name: field.dtype for field in self.outputs}
        wanted = list(known) if outputs is None else list(outputs)
        return {name: as_dtype(found[name], known[name]) for name in wanted}


def named_outputs(answer: Any) -> dict[str, Any]:
    """The tensors that a network answers, by name: its own, or `output`, or `output_0` and so on.

    A classifier's label comes first, and then its probabilities.

    Raises:
        Invalid: An answer holds something else than tensors.
    """
    if hasattr(answer, "_asdict"):
        answer = answer._asdict()
    elif dataclasses.is_dataclass(answer) and not isinstance(answer, Mapping | type):
        answer = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)}
    if isinstance(answer, Mapping):
        named = {str(name): value for name, value in answer.items()}
    elif isinstance(answer, list | tuple):
        named = {f"{_ONE}_{place}": value for place, value in enumerate(answer)}
    else:
        named = {_ONE: answer}
    for name, value in named.items():
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise Invalid(
                f"the model answers {type(value).__name__} for {name}, and tensors are supported",
                hint="give a tensor, a tuple of tensors, or a dict of them by their names",
                field=name,
            )
    if not named:
        raise Invalid("the model answers nothing")
    first = [name for name in _FIRST if name in named]
    return {name: named[name] for name in (*first, *(n for n in named if n not in first))}
