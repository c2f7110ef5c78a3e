"""Takes in a table of outcomes in a process of its own: a small file may stand for gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from bascule.core import Child, Limits, answer_parent
from bascule.monitoring.ledger.outcome_lines import MAX_OUTCOMES
from bascule.monitoring.ledger.outcome_tables import read_csv, read_parquet
from bascule.monitoring.ledger.outcomes import Imported, Outcomes

_MODULE = "bascule.monitoring.ledger.receiving"
_LIMITS = Limits(timeout_s=120.0, memory_bytes=288 << 20, is_nice=True)


def receive_table(
    home: Path, model: str, file: Path, *, is_csv: bool, columns: tuple[str, str, str | None]
) -> Imported:
    """Keep the outcomes of a file of CSV or Parquet that came from anywhere.

    Args:
        home: See `Outcomes`.
        model: See `Outcomes.add`.
        file: The table.
        is_csv: Whether it is CSV, and not Parquet.
        columns: Of ids, of truths, and of times or None.

    Raises:
        BasculeError: What `Outcomes.add` and `Child.answer` raise; nothing was kept.
        TooLarge: The table is over the bounds of `outcome_tables`; nothing was kept.
    """
    question = {
        "home": str(home), "model": model, "file": str(file), "is_csv": is_csv, "columns": columns
    }  # fmt: skip
    reply = Child(_MODULE, question, _LIMITS, what=f"the import of outcomes of {model}").answer()
    return Imported(reply["taken"], {int(line): why for line, why in reply["refused"]})


def _received(question: dict[str, Any]) -> dict[str, Any]:
    ids, truths, times = question["columns"]
    names = [ids, truths] if times is None else [ids, truths, times]
    data = _mapped(Path(question["file"]))
    if question["is_csv"]:
        table = read_csv(data, id_column=ids, columns=names)
    else:
        table = read_parquet(data, columns=names)
    done = Outcomes(Path(question["home"])).add(
        question["model"], table, id_column=ids, truth_column=truths, time_column=times,
        max_refused=MAX_OUTCOMES,
    )  # fmt: skip
    return {"taken": done.taken, "refused": list(done.refused.items())}


def _mapped(file: Path) -> bytes | pa.Buffer:
    return pa.memory_map(str(file)).read_buffer() if file.stat().st_size else b""


if __name__ == "__main__":
    answer_parent(_received)
