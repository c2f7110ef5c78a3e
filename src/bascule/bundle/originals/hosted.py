"""Opens a pickled original, in the child process that `pickled` starts.

Where a program of the bundle stands in for its last step, the steps before it run here, and so does
the program: rows pass from one process to the other once.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle.disk import ProgramEntry, shaped
from bascule.bundle.originals.frames import Frame
from bascule.bundle.originals.pickled import MODEL, PROGRAM, RECIPE
from bascule.bundle.originals.sklearn import SklearnOriginal, before_last_step
from bascule.bundle.programs import open_kind
from bascule.core import Columns, Signature

Answer = Callable[[Columns, Sequence[str] | None], Columns]


def answers_of(folder: str) -> Answer:
    """A function that answers with the model in `folder`, whose modules are in `folder/code`."""
    home = Path(folder)
    sys.path.insert(0, str(home / "code"))
    recipe = json.loads((home / RECIPE).read_bytes())
    signature = shaped(recipe["signature"], Signature, RECIPE, what="a signature")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pickle.loads((home / MODEL).read_bytes())
    frame = Frame.from_json(recipe["frame"])
    if "program" not in recipe:
        return SklearnOriginal(model, frame, signature).run
    entry = shaped(recipe["program"], ProgramEntry, RECIPE, what="a program")
    return _behind_steps(model, frame, signature, entry, (home / PROGRAM).read_bytes())


def _behind_steps(
    model: Any, frame: Frame, signature: Signature, entry: ProgramEntry, data: bytes
) -> Answer:
    features = entry.features
    assert features is not None
    inner = open_kind(replace(entry, inputs=(features,)), data, outputs=signature.outputs)

    def answer(columns: Columns, outputs: Sequence[str] | None) -> Columns:
        made = before_last_step(model, frame.build(columns))
        made = np.ascontiguousarray(made, features.dtype.numpy)
        return inner.run({features.name: made}, outputs)

    return answer
