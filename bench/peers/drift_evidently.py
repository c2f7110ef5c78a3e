"""Evidently's default on windows without drift: how many have a drifted column or table.

Runs in the environment of `drift.txt`. The columns are numbers and texts as in `bench.drift`.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

warnings.simplefilter("ignore")
ROWS = (50, 500, 5_000, 50_000)
BASELINE = 20_000


def table(rows: int, random: np.random.Generator) -> pd.DataFrame:
    columns = {f"n{place}": random.normal(size=rows) for place in range(15)}
    columns |= {f"p{place}": random.poisson(3, rows).astype(float) for place in range(5)}
    columns |= {
        f"t{place}": random.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2]) for place in range(10)
    }
    return pd.DataFrame(columns)


def main(windows: int) -> None:
    random = np.random.default_rng(0)
    reference = table(BASELINE, random)
    for rows in ROWS:
        columns = tables = 0
        for _ in range(windows):
            done = Report([DataDriftPreset()]).run(table(rows, random), reference).dict()
            drifted = next(
                one for one in done["metrics"] if "DriftedColumnsCount" in one["metric_name"]
            )
            columns += drifted["value"]["count"] > 0
            tables += drifted["value"]["share"] >= 0.5
        a_year = (columns / windows * 365, tables / windows * 365)
        print(f"| {rows:,} | {windows} | {a_year[0]:.0f} | {a_year[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
