"""What the storm's servers serve, with the requests to ask and the answers to expect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

import bascule
from bench import subject as trees
from bench.storm import networks
from bench.storm.networks import Network
from bench.subject import ImportedModel

_ROWS = 100


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a storm.

    Attributes:
        name: Of the bundle, and in the path.
        output: What is compared.
        subject: The bundle, rows, and the right answers.
        bodies: Requests, each of as many rows as the next, that wander over the rows.
        truths: The numbers of the right answer to each.
    """

    name: str
    output: str
    subject: ImportedModel
    bodies: list[str]
    truths: list[list[float]]


def boosting(folder: Path, rows: int = 1) -> Model:
    """The gradient boosting of `make bench`, asked about so many rows at once."""
    return _model(trees.NAME, "probabilities", trees.make(folder), rows)


def network(which: Network, folder: Path) -> Model:
    """A network of random weights, packed; its right answers are those of the network alone."""
    program = folder / f"{which.name}.onnx"
    networks.build(which, program)
    path = folder / f"{which.name}.bundle"
    rows = networks.some_rows(which, _ROWS)
    bundle = bascule.pack(program, name=which.name, train=rows, to=path, overwrite=True)
    runner = networks.session(program)
    truth = np.vstack([runner.run(None, {networks.INPUT: row[None]})[0] for row in rows])
    field = bundle.signature.inputs[0]
    subject = ImportedModel(
        bundle=path,
        program=program,
        pickle=program,
        input_name=field.name,
        datatype=field.dtype.value,
        rows=rows.astype(np.float64),
        truth=truth.astype(np.float64),
        pinned=bundle.program().name,
    )
    return _model(which.name, networks.OUTPUT, subject)


def _model(name: str, output: str, subject: ImportedModel, rows: int = 1) -> Model:
    bodies, truths = [], []
    for start in range(len(subject.rows)):
        picked = np.arange(start, start + rows) % len(subject.rows)
        asked = subject.rows[picked]
        tensor = {
            "name": subject.input_name,
            "datatype": subject.datatype,
            "shape": list(asked.shape),
            "data": asked.ravel().tolist(),
        }
        bodies.append(msgspec.json.encode({"inputs": [tensor]}).decode())
        truths.append(subject.truth[picked].ravel().tolist())
    return Model(name, output, subject, bodies, truths)
