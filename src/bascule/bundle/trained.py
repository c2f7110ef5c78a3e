"""The original of a bundle, asked as an estimator is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from bascule.bundle.tables import conform, for_program
from bascule.core import Columns, Invalid, Program, Signature


class Original(Program):
    """The model as it was trained: `predict` and `predict_proba` take any table, `run` columns."""

    def __init__(self, program: Program, signature: Signature) -> None:
        self.name, self.inputs, self.outputs = program.name, program.inputs, program.outputs
        self._program = program
        self._signature = signature

    def __repr__(self) -> str:
        return f"Original({', '.join(one.name for one in self.outputs)})"

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        return self._program.run(columns, outputs)

    def predict(self, data: Any) -> NDArray[Any]:
        """The first output: labels or numbers. Raises `Invalid` where the rows do not fit."""
        return self._asked(data, self.outputs[0].name)

    def predict_proba(self, data: Any) -> NDArray[Any]:
        """Probabilities, shape (rows, classes). Raises `Invalid` where the model gives none."""
        names = [one.name for one in self.outputs]
        if "probabilities" not in names:
            raise Invalid(
                f"the original gives no probabilities; its outputs are {', '.join(names)}",
                hint="original.predict(X)",
            )
        return self._asked(data, "probabilities")

    def _asked(self, data: Any, output: str) -> NDArray[Any]:
        columns = for_program(conform(data, self._signature), self.inputs)
        return self.run(columns, [output])[output]

    @property
    def may_block(self) -> bool:
        return self._program.may_block

    @property
    def pid(self) -> int | None:
        return self._program.pid

    def bound_runs(self, timeout_s: float) -> None:
        self._program.bound_runs(timeout_s)

    def interrupt(self) -> None:
        self._program.interrupt()

    def close(self) -> None:
        self._program.close()
