"""Tables without drift, of 30 columns, for the peers of `bench.drift`."""

from __future__ import annotations

import numpy as np
import pandas as pd

ROWS = (50, 500, 5_000, 50_000)
BASELINE = 20_000


def table(rows: int, random: np.random.Generator) -> pd.DataFrame:
    columns = {f"n{place}": random.normal(size=rows) for place in range(15)}
    columns |= {f"p{place}": random.poisson(3, rows).astype(float) for place in range(5)}
    columns |= {
        f"t{place}": random.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2]) for place in range(10)
    }
    return pd.DataFrame(columns)
