"""What passes between a flavor, which knows one framework, and pack, which knows none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from bascule.bundle import Texts
from bascule.bundle.disk import ProgramEntry, Target
from bascule.core import Columns, Field, Program, Signature

Truth = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a model is packed with.

    Attributes:
        columns: In the signature's dtypes.
        truth: What was true for each row, where it is known.
        given: The same rows in the caller's own container, in which the model itself is asked;
            None where they come from a bundle.
    """

    columns: Columns
    truth: Truth | None = None
    given: Any = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A model that is being packed, as its flavor reads it.

    Attributes:
        task: One of `manifest.TASKS`.
        classes: The labels in the order of the probabilities; None unless a classifier.
        signature: Its inputs, and the outputs of the original.
        original: The model itself as a program.
        saved: The bytes of the original in the safest form that its framework has.
        saved_file: Where they go in the bundle.
        saved_format: How they are to be read.
        requires: Distributions that the original needs, with their versions.
        frame: How to rebuild the container that the model was trained on.
        train: The training rows; empty for a flavor that needs none.
        test: Held-out rows, where there are any.
        parameters: The settings of the model, as text.
        targets: What each output of a model with several is of; empty for any other model.
        ask: The model itself, asked about rows in the caller's own container: all outputs, in the
            signature's dtypes. None for a flavor whose rows lose nothing when they are read.
        reopened: What answers where the original is served, if it may round otherwise than the
            model that was handed in, or runs in a process of its own; else None.
        is_network: Whether numbers much larger than the real ones overflow on the way.
        own_program: What a manifest says of a model that is its own program, but is no graph.
        files: Further files of the bundle, by name: their bytes, or where they are.
        example: Rows for the example request, where they are not of `test` or `train`.
        decide: Asks the model for its `decision_function` of rows in the signature's dtypes; None
            for a flavor whose models have none.
    """

    task: str
    classes: tuple[str | int | float | bool, ...] | None = None
    signature: Signature
    original: Program
    saved: bytes
    saved_file: str
    saved_format: str
    requires: Mapping[str, str] = field(default_factory=dict)
    frame: Mapping[str, Any] = field(default_factory=dict)
    train: Rows | None
    test: Rows | None
    parameters: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    ask: Callable[[Any], Columns] | None = None
    reopened: Program | None = None
    is_network: bool = False
    own_program: ProgramEntry | None = None
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    example: Columns | None = None
    decide: Callable[[Columns], NDArray[Any] | None] | None = None


@dataclass(frozen=True, slots=True)
class Compilation:
    """One graph that may stand in for the model, if it turns out to be equal.

    Attributes:
        precision: How it computes, for people to read.
        data: The graph's bytes.
        inputs: What it reads.
        outputs: What it gives.
        missing_text: What a missing text is inside it.
        texts: What it needs to count words; None where it counts none.
        steps: The model's own steps, which are not compiled: from the columns of the model to
            `inputs`. None where the graph reads the columns themselves.
        rounding: By how much a probability may differ because the model rounds its own scores,
            where a step of what follows multiplies that.
        shares: Of the training rows that came to each test of the one sum of trees, the share that
            passed it; None where there are several sums, or it is not known.
    """

    precision: str
    data: bytes
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    missing_text: str | None
    texts: Texts | None = None
    steps: Callable[[Columns], Columns] | None = None
    rounding: float = 0.0
    shares: NDArray[Any] | None = None


class Flavor(Protocol):
    """What Bascule knows of one framework. `flavors.TABLE` names them all."""

    name: str

    def recognises(self, model: Any) -> bool:
        """Whether the model is this framework's. Imports nothing heavy to find out."""

    def read(self, model: Any, train: Any, test: Any) -> ImportedModel:
        """Infer the signature, save the original, and bring the rows into shape."""

    def compilations(self, model: Any, subject: ImportedModel, /) -> Iterator[Compilation]:
        """Ways to compile the model, the best first. Raises `Unconvertible` if there is none."""
