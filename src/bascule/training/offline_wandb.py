"""A training run as an offline run of Weights & Biases: nothing is sent until `wandb sync`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bascule.core import Scratch, Unavailable, first_line, library


def write_to_wandb(
    folder: Path, key: str, result: Mapping[str, Any], outcome: Mapping[str, str]
) -> None:
    """Write a run to `offline-run-TIME-KEY` in the folder, once, and whole or not at all.

    Raises:
        MissingExtra: wandb is not installed.
        Unavailable: The folder cannot be written to, or wandb fails.
    """
    if any(folder.glob(f"offline-run-*-{key}")):
        return
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it asks when it is imported
    wandb = library("wandb", "wandb")
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True,
        x_disable_stats=True,
    )  # fmt: skip
    points = defaultdict[float, dict[str, float]](dict)
    for name, curve in result["curves"].items():
        for step, value in curve:
            if value is not None:  # not finite
                points[step][name] = value
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Scratch("draft-", parent=folder) as scratch:
            run = wandb.init(
                mode="offline", dir=str(scratch), project=result["pipeline"]["name"], id=key,
                name=outcome["version"], notes=outcome["sentence"], settings=quiet,
                reinit="create_new",  # the code of the pipeline may have left a run of its own open
                config={**result["parameters"], "rows": result["rows"], "code": result["code"]},
            )  # fmt: skip
            run.define_metric("*", step_metric="step")
            for step in sorted(points):
                run.log({"step": step, **points[step]})
            run.summary.update({**result["metrics"], **outcome, "digest": result["digest"]})
            run.finish()
            (made,) = scratch.glob("wandb/offline-run-*")
            made.rename(folder / made.name)
    except (OSError, ValueError, wandb.Error) as problem:
        raise Unavailable(
            f"no run of wandb is written to {folder}: {first_line(problem)}",
            hint="check tracking.wandb; the next run of the same inputs writes it",
        ) from None
