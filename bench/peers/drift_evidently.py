"""Evidently's default on windows without drift: how many have a drifted column or table.

Runs in the environment of `drift.txt`. The tables are of `drift_tables.py`.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from drift_tables import BASELINE, ROWS, table
from evidently import Report
from evidently.presets import DataDriftPreset

warnings.simplefilter("ignore")


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
        of_columns, of_tables = (count / windows * 365 for count in (columns, tables))
        print(f"| Evidently, a column | {rows:,} | {windows} | {of_columns:.0f} |")
        print(f"| Evidently, the table | {rows:,} | {windows} | {of_tables:.0f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
