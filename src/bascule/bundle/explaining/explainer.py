"""The explainers of bundles: the protocol, the table of methods, and the file that packing writes.

`data/explaining.json` says which method a bundle has and what it explains; the numbers of the
method are in `data/explaining.npz`. Both are covered by the digest. What was measured (error and
cost) is a statement beside them. A worker reads all of it with numpy: no framework is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import disk
from bascule.bundle.disk import (
    EXPLAINING,
    EXPLAINING_ARRAYS,
    Manifest,
    ProgramEntry,
    parse,
    reading,
    shaped,
)
from bascule.bundle.explaining.links import LINKS
from bascule.bundle.programs import FEATURES, open_kind
from bascule.bundle.tables import as_dtype, for_program
from bascule.core import Columns, DType, Field, Program, Untrusted, canonical_json, load_named

EXPLAINING_KIND = "explaining"
"""Of the statement that tells what was measured of the explanations."""

Arrays = Mapping[str, NDArray[Any]]
_AGAIN = "pack the model again"


OpensProgram = Callable[[], Program]


class Explainer(Protocol):
    """Attributes the answers of one model to the columns of its inputs.

    `base + attributions.sum(axis=1)` are the margins, and the link of the margins is the answer.

    Attributes:
        columns: The user's input columns, as they are named in `Explanation.columns`.
        outputs: What is explained: the margin of each class, or the prediction.
        base: The margins of a row of which nothing is known; float64, shape (outputs,).
    """

    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    base: NDArray[np.float64]

    def attributions(self, inputs: Columns) -> NDArray[np.float64]:
        """What each column adds, shape (rows, columns, outputs). From any thread.

        Args:
            inputs: By the names of the signature's inputs, as any program of the bundle reads them.
        """


EXPLAINERS: dict[str, str] = {
    "trees": "bascule.bundle.explaining.trees:TreeExplainer",
    "linear": "bascule.bundle.explaining.linear:LinearExplainer",
    "gradients": "bascule.bundle.explaining.gradients:IntegratedGradients",
    "sampling": "bascule.bundle.explaining.sampling:Sampled",
}
"""By method, in the order in which packing tries them: `module:Class`, an `OpensExplainer`."""
OpensExplainer = Callable[["Explanation", Arrays, OpensProgram], Explainer]
"""Opens the program that answers only if it asks it; an error where no packing writes that."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a bundle can say of its answers: the content of `data/explaining.json`.

    Attributes:
        method: Of the table `EXPLAINERS`.
        link: Of the table `LINKS`.
        answer: The model's output that the link gives of the margins.
        columns: The user's input columns, in the order of the signature.
        outputs: What is explained.
        tolerance: The largest difference of the linked margins from the model's own answer with
            which an explanation is given out.
        about: One sentence for people: what the numbers are, exact or not.
        background_rows: How many rows stand for "not known"; 0 where the shares of the training
            rows in the trees do.
        features: The graph that makes what the method reads of the inputs; its bytes are the array
            `features`. None where the method reads the inputs themselves.
        settings: The method's own.
    """

    method: str
    link: str
    answer: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: float
    about: str
    background_rows: int = 0
    features: ProgramEntry | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of the explanations: the body of the statement.

    Attributes:
        error: The largest difference of the linked margins from the answers, as `tolerance`.
        rows: On how many rows.
        row_cost_s: One row among many; what admission counts with.
        one_row_s: One row alone.
        attribution_error: Of a method that is not exact: how far an attribution was from a
            reference; None for exact ones.
    """

    error: float
    rows: int
    row_cost_s: float
    one_row_s: float
    attribution_error: float | None = None


def to_files(explanation: Explanation, arrays: Arrays) -> dict[str, bytes]:
    """The files of a bundle, by their paths; the same bytes for the same content."""
    content = asdict(explanation)
    if explanation.features is not None:
        content["features"] = explanation.features.to_json()
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **dict(sorted(arrays.items())))
    return {EXPLAINING: canonical_json(content), EXPLAINING_ARRAYS: file.getvalue()}


def read_explanation(path: Path, manifest: Manifest) -> Explanation | None:
    """What the bundle at `path` can say of its answers; None where it can say nothing.

    Raises:
        Untrusted: The file is not the one that was sealed, or cannot be one.
    """
    if EXPLAINING not in manifest.files:
        return None
    value = parse(disk.read_file(path, manifest, EXPLAINING), EXPLAINING, what="an explanation")
    explanation = shaped(value, Explanation, EXPLAINING, what="an explanation")
    outputs = {output.name for output in manifest.signature.outputs}
    if explanation.link not in LINKS or explanation.answer not in outputs:
        raise Untrusted(
            f"{EXPLAINING} explains what the model does not answer", hint=_AGAIN, file=EXPLAINING
        )
    return explanation


def open_explainer(path: Path, manifest: Manifest, explanation: Explanation) -> Explainer:
    """The explainer of the bundle at `path`; takes up to a second.

    Raises:
        Untrusted: The files are not what packing writes, or the method is not known.
    """
    if explanation.method not in EXPLAINERS:
        raise Untrusted(
            f"{EXPLAINING} names the method {explanation.method!r}, which this version lacks",
            hint="update bascule",
            file=EXPLAINING,
        )
    import zipfile  # a megabyte, which a device does not have to spare

    opens: OpensExplainer = load_named(EXPLAINERS[explanation.method])
    with reading(EXPLAINING_ARRAYS, what="an explanation", also=(zipfile.BadZipFile,)):
        arrays = _read_arrays(disk.read_file(path, manifest, EXPLAINING_ARRAYS))
        return opens(explanation, arrays, partial(_open_program, path, manifest))


def _read_arrays(data: bytes) -> Arrays:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _open_program(path: Path, manifest: Manifest) -> Program:
    entry = manifest.served
    if entry is None or entry.features is not None:
        raise Untrusted(
            f"{EXPLAINING} asks for a program that the bundle lacks", hint=_AGAIN, file=EXPLAINING
        )
    data = disk.read_file(path, manifest, entry.file)
    return open_kind(entry, data, outputs=manifest.signature.outputs)


def measured_of(path: Path) -> Measured | None:
    """What was last measured of the explanations of the bundle at `path`."""
    bodies = [statement.body for statement in disk.read_statements(path, EXPLAINING_KIND)]
    if not bodies or "row_cost_s" not in bodies[-1]:
        return None
    return shaped(dict(bodies[-1]), Measured, "the explaining statement", what="a measurement")


def affordable_rows(row_cost_s: float, budget_s: float, *, least: int, most: int) -> int:
    """How many rows are explained in such a time."""
    return max(least, min(most, int(budget_s / max(row_cost_s, 1e-9))))


class Features:
    """What an exact method sums up: from the inputs of a model to features, (rows, features).

    Args:
        explanation: Its settings are `width` (how many features there are; -1 while packing finds
            out) and `rounds` (whether they are floats).
        arrays: The graph `features`, where the features are not the inputs side by side.
    """

    def __init__(self, explanation: Explanation, arrays: Arrays) -> None:
        self.width = int(explanation.settings["width"])
        self._type = DType.FP32 if explanation.settings["rounds"] else DType.FP64
        self._columns = explanation.columns
        self._program = None
        if explanation.features is not None:
            outputs = (Field(FEATURES, self._type, (self.width,)),)
            data = arrays["features"].tobytes()
            self._program = open_kind(explanation.features, data, outputs=outputs)

    def __call__(self, inputs: Columns) -> NDArray[Any]:
        if self._program is not None:
            read = for_program(inputs, self._program.inputs)
            features = self._program.run(read)[FEATURES]
        else:
            own = inputs if len(inputs) == 1 else self._columns  # as a request orders them
            features = np.column_stack([inputs[name] for name in own])
        if self.width >= 0 and features.shape[1:] != (self.width,):
            raise ValueError(f"{features.shape[1:]} features, not {self.width}")
        return as_dtype(features, self._type)
