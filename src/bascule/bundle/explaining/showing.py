"""An explanation of one row as a chart, for pages and notebooks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.explaining.columns import column_places
from bascule.bundle.explaining.explainer import Explanation
from bascule.charts import waterfall
from bascule.core import Columns, Signature
from bascule.documents import Plot


def waterfall_plot(
    explanation: Explanation, outputs: Mapping[str, NDArray[Any]], signature: Signature,
    columns: Columns, row: int,
) -> Plot:  # fmt: skip
    """How the columns lead to the answer: of several outputs, to the one with the largest margin.

    Args:
        explanation: Of the bundle.
        outputs: Of an answer with the extra output `explain`.
        signature: Of the model.
        columns: The rows that were asked.
        row: Which of them.
    """
    count = len(explanation.outputs)
    added = np.asarray(outputs["attributions"][row], float).reshape(-1, count)
    base, rest = (
        np.asarray(outputs[f"attributions_{name}"][row], float).reshape(count)
        for name in ("base", "rest")
    )
    shown = int(np.argmax(base + added.sum(axis=0) + rest))
    steps = [
        (f"{place.name} = {_short(place.values(columns)[row])}", float(number))
        for place, number in zip(column_places(signature), added[:, shown], strict=True)
    ]
    steps += [("all others", float(rest[shown]))] if rest[shown] else []
    name, link = explanation.outputs[shown], explanation.link
    scale = "" if link == "identity" else f", in {'log-odds' if link == 'logit' else 'margins'}"
    alt, end = f"What each column adds to {name}, row {row}", "margin" if scale else "answer"
    chart = waterfall(float(base[shown]), steps, alt, end=end)
    caption = f"What each column adds to {name}{scale}: {explanation.about}."
    return Plot(f"Row {row}: why {name}", caption, chart)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
