"""Runs what surrounds an ensemble of trees, and hands the trees to an engine that knows only those.

What comes before the trees and what follows them stays with ONNX Runtime; see
`packing.compilers.apart`, which writes the file that is read here: a NumPy archive with

    threshold feature true_at true_is_leaf false_at false_is_leaf missing   one value per test
    target weight                                                           one value per leaf
    roots                                                                   one value per tree
    columns                                                                 how many features
    before after whole                                                      graphs, as bytes

Where the model compares doubles with thresholds that are no floats, there is `double_threshold` in
place of `threshold`. `whole` is all in one piece: an engine takes some time before it begins, and a
few rows are run in ONNX Runtime here too. Both ways compare the same numbers, and their sums are
exact (`compilers.apart.exactly_summed`): they answer the same bits, whichever engine it is, and a
row's answer does not depend on how many came with it.
"""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.programs.onnx import match, nullable_text, open_session, without_missing_text
from bascule.core import Columns, DType, Field, ModelFailed, Program, Untrusted, first_line

FEATURES = "features"
SUMS = "sums"
_ARRAYS = {
    "feature": "i", "true_at": "i", "true_is_leaf": "i", "false_at": "i", "false_is_leaf": "i",
    "missing": "i", "target": "i", "weight": "f", "roots": "i", "columns": "i",
}  # fmt: skip
_THRESHOLDS = {"threshold", "double_threshold"}
_MAX_TARGETS = 1 << 16
_OF_TESTS = (*_THRESHOLDS, *tuple(_ARRAYS)[:6])

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Node:
    """A test or a leaf, where it hangs, and whether its parent's test holds on the way to it."""

    number: int
    is_leaf: bool
    parent: int
    holds: bool


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees that were checked: every number in them leads somewhere, and every branch ends.

    Attributes:
        arrays: What the file holds, by name.
        columns: How many features a row has.
        by_target: The trees of each target, each as its nodes from the root down.
        are_floats: Whether the features are floats; else they are doubles.
        file: Their file, for error messages.
    """

    arrays: Arrays
    columns: int
    by_target: list[list[list[Node]]]
    are_floats: bool
    file: str


class Engine(Protocol):
    """Adds up trees.

    Attributes:
        few_row_trees: Rows times trees below which ONNX Runtime is faster, the way through the
            parts included.
    """

    few_row_trees: int

    def sums(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """The sum of each target (rows, targets) for features (rows, columns)."""


MakeEngine = Callable[[Trees, int], Engine]
"""From trees and a number of threads; raises `Untrusted` where it cannot hold them."""


class TreesProgram(Program):
    """See `core.programs.Program`."""

    __slots__ = (
        "_after", "_all", "_before", "_columns", "_engine", "_few_rows", "_missing_text",
        "_nullable_text", "_whole", "inputs", "name", "outputs",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        inputs: tuple[Field, ...],
        outputs: tuple[Field, ...],
        before: Any,
        columns: int,
        engine: Engine,
        after: Any,
        whole: Any,
        few_rows: int,
        missing_text: str | None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self._all = [field.name for field in outputs]
        self._before = None if before is None else before._sess.run
        self._after = after._sess.run
        self._whole = None if whole is None else whole._sess.run
        self._few_rows = few_rows
        self._columns = columns
        self._engine = engine
        self._missing_text = missing_text
        self._nullable_text = nullable_text(inputs) if missing_text is not None else ()

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for, in that order."""
        names = self._all if outputs is None else list(outputs)
        if self._nullable_text:
            columns = without_missing_text(columns, self._nullable_text, self._missing_text)
        try:
            if self._whole is not None and len(columns[self.inputs[0].name]) < self._few_rows:
                answers = self._whole(names, columns, None)
            else:
                answers = self._in_parts(columns, names)
        except Exception as problem:
            raise ModelFailed(f"program {self.name} failed: {first_line(problem)}") from problem
        return dict(zip(names, answers, strict=True))

    def both_ways(self) -> tuple[TreesProgram, TreesProgram]:
        """The program as it runs many rows, and as it runs a few, to be compared."""
        many, few = copy.copy(self), copy.copy(self)
        many._few_rows, few._few_rows = 0, sys.maxsize
        return many, few

    def _in_parts(self, columns: Columns, names: list[str]) -> Any:
        if self._before is None:
            features = columns[self.inputs[0].name]
        else:
            (features,) = self._before([FEATURES], columns, None)
        if features.shape[1:] != (self._columns,):
            raise ValueError(f"{features.shape[1:]} features, not {self._columns}")
        return self._after(names, {SUMS: self._engine.sums(features)}, None)


def open_trees(
    data: bytes,
    make_engine: MakeEngine,
    *,
    name: str,
    file: str,
    inputs: tuple[Field, ...],
    outputs: tuple[Field, ...],
    missing_text: str | None = None,
    threads: int = 1,
) -> TreesProgram:
    """A program from the bytes of a verified file, with its trees in an engine.

    Raises:
        Untrusted: The file is not what `packing.compilers.apart` writes, or the engine cannot hold
            the trees.
    """
    arrays = _read(data, file)
    before = None
    are_floats = inputs[0].dtype is DType.FP32
    if "before" in arrays:
        before = open_session(arrays["before"].tobytes(), file, threads=threads)
        if {node.name for node in before.get_inputs()} - {field.name for field in inputs}:
            raise Untrusted(f"{file} reads columns that the manifest does not declare", file=file)
        are_floats = all(node.type == "tensor(float)" for node in before.get_outputs())
    elif len(inputs) != 1 or inputs[0].dtype not in (DType.FP32, DType.FP64):
        raise Untrusted(f"{file} has no part that makes the trees' features", file=file)
    after = open_session(arrays["after"].tobytes(), file, threads=threads)
    if [node.name for node in after.get_inputs()] != [SUMS] or {field.name for field in outputs} - {
        node.name for node in after.get_outputs()
    }:
        raise Untrusted(f"{file} does not answer what the manifest declares", file=file)
    whole = None
    if "whole" in arrays:
        whole = open_session(arrays["whole"].tobytes(), file, threads=threads)
        match(whole.get_inputs(), inputs, f"an input of {file}")
        match(whole.get_outputs(), outputs, f"an output of {file}")
    targets = after.get_inputs()[0].shape[-1]
    if not isinstance(targets, int) or not 0 < targets <= _MAX_TARGETS:
        raise Untrusted(f"{file} has no fixed number of sums, or too many", file=file)
    if len(arrays["columns"]) != 1:
        raise Untrusted(f"{file} has no fixed number of features", file=file)
    columns = int(arrays["columns"][0])
    _check(arrays, columns, targets, file)
    by_target = _by_target(arrays, targets, file)
    engine = make_engine(Trees(arrays, columns, by_target, are_floats, file), threads)
    return TreesProgram(
        name=name,
        inputs=inputs,
        outputs=outputs,
        before=before,
        columns=columns,
        engine=engine,
        after=after,
        whole=whole,
        few_rows=engine.few_row_trees // len(arrays["roots"]),
        missing_text=missing_text,
    )


def _read(data: bytes, file: str) -> Arrays:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Untrusted(f"{file} is compressed, which no program is", file=file)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError):
        raise Untrusted(f"{file} cannot be read", file=file) from None
    thresholds = _THRESHOLDS & set(arrays)
    if len(thresholds) != 1:
        raise Untrusted(f"{file} has no thresholds, or two for each test", file=file)
    for name, kind in {**_ARRAYS, thresholds.pop(): "f", "after": "u"}.items():
        if name not in arrays or arrays[name].dtype.kind != kind or arrays[name].ndim != 1:
            raise Untrusted(f"{file} has no {name} as it should be", file=file)
    return arrays


def _check(arrays: Arrays, columns: int, targets: int, file: str) -> None:
    """Refuse numbers that would lead an engine, which does not look, outside of its memory."""
    tests, leaves = len(arrays["feature"]), len(arrays["weight"])
    good = (
        all(len(arrays[name]) == tests for name in _OF_TESTS if name in arrays)
        and not any(np.isnan(arrays[name]).any() for name in _THRESHOLDS & set(arrays))
        and columns > 0
        and len(arrays["target"]) == leaves > 0
        and len(arrays["roots"]) > 0
        and _within(arrays["feature"], columns)
        and _within(arrays["target"], targets)
        and _within(arrays["roots"], tests)
        and all(
            _within(at[is_leaf != 0], leaves) and _within(at[is_leaf == 0], tests)
            for at, is_leaf in (
                (arrays["true_at"], arrays["true_is_leaf"]),
                (arrays["false_at"], arrays["false_is_leaf"]),
            )
        )
    )
    if not good:
        raise Untrusted(
            f"{file} holds a tree that leads nowhere, or compares with nothing", file=file
        )
    # No test may be reached twice: not from two tests, and not from below itself.
    reached = np.bincount(
        np.concatenate(
            [
                arrays["roots"],
                arrays["true_at"][arrays["true_is_leaf"] == 0],
                arrays["false_at"][arrays["false_is_leaf"] == 0],
            ]
        ),
        minlength=tests,
    )
    if (reached != 1).any():
        raise Untrusted(f"{file} holds a tree that grows together", file=file)


def _within(values: NDArray[Any], end: int) -> bool:
    return not len(values) or (int(values.min()) >= 0 and int(values.max()) < end)


def _by_target(arrays: Arrays, targets: int, file: str) -> list[list[list[Node]]]:
    """The trees of each target, each as its nodes from the root down."""
    true_at, true_is_leaf, false_at, false_is_leaf, target = (
        arrays[name].tolist()
        for name in ("true_at", "true_is_leaf", "false_at", "false_is_leaf", "target")
    )
    found: list[list[list[Node]]] = [[] for _ in range(targets)]
    for root in arrays["roots"].tolist():
        nodes = [Node(root, False, -1, False)]
        if true_is_leaf[root] and false_is_leaf[root] and true_at[root] == false_at[root]:
            nodes = [Node(true_at[root], True, -1, False)]
        for place, node in enumerate(nodes):
            if not node.is_leaf:
                at = node.number
                nodes.append(Node(true_at[at], bool(true_is_leaf[at]), place, True))
                nodes.append(Node(false_at[at], bool(false_is_leaf[at]), place, False))
        added_to = {target[node.number] for node in nodes if node.is_leaf}
        if len(added_to) != 1:
            raise Untrusted(f"{file} holds a tree with several targets", file=file)
        found[added_to.pop()].append(nodes)
    return found
