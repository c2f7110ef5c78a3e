"""A federated training: a Flower app for a model, and what its run hands over, as a bundle.

Flower needs other versions of libraries than ours, so the app has an environment of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from bascule.bundle import Bundle
from bascule.bundle.disk import reading
from bascule.bundle.statements import flat_columns
from bascule.core import Columns, Conflict, DType, Invalid, NotFound
from bascule.packing.packing import pack
from bascule.ship import render_text

_ODD = (OSError, BadZipFile)
_FILES = ("README.md", "client_app.py", "pyproject.toml", "server_app.py", "task.py")


def federated_app(parent: Bundle, **places: str) -> dict[str, str]:
    """The files, by name, of a Flower app that fits a logistic regression on devices.

    Args:
        parent: A classifier of columns of numbers; its held-out rows scale what devices have.
        places: Handed back by the run: `model`, the reference of the parent; `folder`, where the
            run writes; `command`, our `bascule`; `project`, the folder of our settings.

    Raises:
        Invalid: It is no such bundle.
    """
    columns, _ = _held_out(parent)
    rows = np.column_stack([*columns.values()]).astype(np.float64)
    scales = rows.std(axis=0)
    facts = {
        "name": parent.name, "features": list(columns),
        "classes": list(parent.classes or ()), "centres": rows.mean(axis=0).tolist(),
        "scales": np.where(scales > 0, scales, 1).tolist(),
        "places": {**places, "digest": parent.digest},
    }  # fmt: skip
    return {name: render_text(f"flower/{name}.j2", **facts) for name in _FILES}


def federated_bundle(folder: Path, open_parent: Callable[[str], Bundle]) -> Bundle:
    """Pack what the last run has handed over, with its provenance and privacy.

    The bundle lies beside the folder: Flower sends the JSON files in it to the devices.

    Raises:
        NotFound: No run has handed over yet.
        Conflict: The app was made for another bundle than the parent is now.
        Untrusted: The file is damaged.
    """
    file = folder / "federated.npz"
    if not file.is_file():
        raise NotFound(f"{file} is not there", hint="run the app first; README.md says how")
    with reading(file.name, what="weights", also=_ODD), file.open("rb") as f, np.load(f) as arrays:
        slopes, biases, run = arrays["slopes"], arrays["biases"], json.loads(str(arrays["run"]))
    parent = open_parent(run["model"])
    if run["digest"] != parent.digest:
        changed = f"{run['model']} is not the bundle that {folder} was made for"
        raise Conflict(changed, hint="write another app, and run it")
    columns, truth = _held_out(parent)
    # No gain from the sampling of devices is claimed: the server knows which take part.
    noise, whole = run["noise-multiplier"], {"sample_rate": 1, "steps": run["completed"]}
    return pack(
        _classifier(slopes, biases, parent), name=parent.name, train=columns,
        test=(columns, truth), to=folder.with_name(f"{folder.name}.bundle"), overwrite=True,
        description="Trained on devices. Profiles are of held-out rows; an epsilon is of a device.",
        federated=run,
        privacy={**whole, "noise_multiplier": noise, "delta": run["delta"]} if noise > 0 else None,
    )  # fmt: skip


def _held_out(parent: Bundle) -> tuple[Columns, Any]:
    signature, held_out = parent.signature, parent.test_data()
    kinds = {(field.nullable, field.dates, len(field.shape)) for field in signature.inputs}
    texts = any(field.dtype is DType.BYTES for field in signature.inputs)
    if parent.classes is None or texts or kinds != {(False, None, int(signature.is_matrix))}:
        wrong = f"{parent.name} is no classifier of columns of numbers, none missing"
        raise Invalid(wrong, hint="encode texts, fill gaps, and pack it again")
    if held_out is None or held_out[1] is None:
        raise Invalid(f"{parent.name} holds no held-out rows", hint="pack it again with test")
    return flat_columns(held_out[0], signature), held_out[1]


def _classifier(slopes: Any, biases: Any, parent: Bundle) -> Any:
    from sklearn.linear_model import LogisticRegression

    if len(biases) == 2:  # for which scikit-learn has one score
        slopes, biases = np.diff(slopes, axis=0), np.diff(biases)
    model, inputs = LogisticRegression(), parent.signature.inputs
    model.coef_, model.intercept_, model.classes_ = slopes, biases, np.array(parent.classes)
    model.n_features_in_ = slopes.shape[1]
    if not parent.signature.is_matrix:
        model.feature_names_in_ = np.array([field.name for field in inputs], object)
    return model
