"""Made `bundle_own_code` once: the way to make the next one. Never run it for this one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import bascule

CODE = Path(__file__).parents[1] / "conformance" / "samples" / "own_steps.py"


def main(to: str) -> None:
    sys.path.append(str(CODE.parent))  # beside files with names of packages
    import own_steps

    rows = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    truth = (rows[:, 0] > rows[:, 1]).astype(int)
    model = make_pipeline(
        own_steps.Clip(), FunctionTransformer(own_steps.ratios), LogisticRegression()
    )
    bascule.pack(
        model.fit(rows, truth),
        name="golden-own-code",
        train=(rows, truth),
        test=(rows[:6], truth[:6]),
        code=[CODE],
        to=to,
        author="bascule",
        description="The first format of a model with code of its own, kept readable.",
    )


if __name__ == "__main__":
    main(sys.argv[1])
