"""NannyML's default on windows without drift: how many have an alert of any column.

Runs in the environment of `drift_nannyml.txt`, on the tables of `drift_evidently.py`.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
from drift_tables import BASELINE, ROWS, table
from nannyml import UnivariateDriftCalculator

warnings.simplefilter("ignore")


def main(windows: int) -> None:
    random = np.random.default_rng(0)
    reference = table(BASELINE, random)
    for rows in ROWS:
        calculator = UnivariateDriftCalculator(
            column_names=list(reference.columns), chunk_size=min(rows, BASELINE // 10)
        ).fit(reference)
        later = pd.concat([table(rows, random) for _ in range(windows)], ignore_index=True)
        calculator = calculator.calculate(later)
        found = calculator.filter(period="analysis").to_df()
        alerts = [column for column in found.columns if column[-1] == "alert"]
        chunks = found[alerts].any(axis=1)
        print(f"| NannyML | {rows:,} | {len(chunks)} | {chunks.mean() * 365:.0f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
