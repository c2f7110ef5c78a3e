"""Opens a pickled original, in the child process that `pickled` starts."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from bascule.bundle.disk import shaped
from bascule.bundle.flavors.frames import Frame
from bascule.bundle.flavors.pickled import MODEL, RECIPE
from bascule.bundle.flavors.sklearn import SklearnOriginal
from bascule.core import Columns, Signature


def answers_of(folder: str) -> Callable[[Columns, Sequence[str] | None], Columns]:
    """A function that answers with the model in `folder`, whose modules are in `folder/code`."""
    home = Path(folder)
    sys.path.insert(0, str(home / "code"))
    recipe = json.loads((home / RECIPE).read_bytes())
    signature = shaped(recipe["signature"], Signature, RECIPE, what="a signature")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = pickle.loads((home / MODEL).read_bytes())
    return SklearnOriginal(model, Frame.from_json(recipe["frame"]), signature).run
