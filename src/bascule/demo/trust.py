"""The second story of the demo: why this answer, may it be given, who copies, whom to forget.

Everything is done by the commands and calls that a user has, in a temporary folder. The story holds
only if each step held: attributions add up, the outlier is refused, the budget ends the copying, no
file of the home has the passenger's name, the chain of acts verifies, and the document is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

import bascule
from bascule.core import BasculeError, Overloaded
from bascule.demo import flights
from bascule.demo.flights import NAME
from bascule.demo.server import start
from bascule.demo.telling import command, heading, summary

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

PASSENGER = "passenger"
_FORGOTTEN = "Ada-Byron-1815"
_BUDGET_ROWS = 500
_SETTINGS = f"""
[policies.{NAME}]
on_outlier = "refuse"
outlier_p = 0.01
budget_rows_per_day = {_BUDGET_ROWS}
"""


def tell_trust(folder: Path, console: Console) -> dict[str, Any]:
    """Tell the story in `folder`: its facts, and in `held` whether each promise was kept.

    Raises:
        BasculeError: A step could not be done at all.
    """
    (folder / "bascule.toml").write_text(_SETTINGS, encoding="utf-8")
    heading(console, "A model of January, which takes the passenger along and does not use it")
    version, rows = _learn(console, folder)
    server = start(version, home=folder / ".bascule", folder=folder, records=True)
    try:
        client = bascule.Client(server.url, model=NAME)
        heading(console, "Why this answer?")
        off_by = _explain(console, client, rows)
        heading(console, "A flight like no other")
        refused = _refuse(console, client, rows)
        client.predict(rows[:2].assign(**{PASSENGER: _FORGOTTEN}))
        heading(console, "A caller copies the model")
        copied_rows = _copy(console, client, rows)
    finally:
        server.stop()

    heading(console, "A passenger asks to be forgotten")
    words = ("erase", _FORGOTTEN, "--field", PASSENGER, "--yes")
    erased = command(console, folder, *words)
    erased_rows = sum(place["rows"] for place in erased["content"]["places"])
    files = [file for file in (folder / ".bascule").rglob("*") if file.is_file()]
    left = sum(_FORGOTTEN.encode() in file.read_bytes() for file in files)
    proof = Path(erased["proof"]).name
    console.print(
        f"{erased_rows} rows and texts erased; {left} of {len(files)} files still have the name; "
        f"the signed proof: {proof}"
    )

    heading(console, "Who did what")
    acts = int(command(console, folder, "audit", "verify")["entries"])
    console.print(f"{acts} acts in the chain: none was changed, dropped or reordered")

    heading(console, "The documents for the regulator")
    written = command(console, folder, "document", "annex-iv", version, "--out", "annex-iv.html")
    sections, missing = len(written["sections"]), len(written["missing"])
    console.print(
        f"EU AI Act, Annex IV: {sections} sections from evidence; {missing} parts are missing, in "
        "red, with who must provide them"
    )
    promises = {
        "attributions add up to the answer": off_by < 1e-6,
        "an outlier was refused": refused,
        f"the copy ended within {_BUDGET_ROWS} rows": 0 < copied_rows <= _BUDGET_ROWS,
        "the passenger is in no file of the home": erased_rows > 0 and left == 0,
        "the chain of acts verified": acts > 0,
        "Annex IV is there": sections > 0,
    }
    facts = {
        "off_by": off_by, "refused": refused, "copied_rows": copied_rows,
        "erased_rows": erased_rows, "left": left, "acts": acts, "sections": sections,
        "missing": missing,
    }  # fmt: skip
    return summary(console, promises, facts)


def _learn(console: Console, folder: Path) -> tuple[str, pd.DataFrame]:
    """The version, and the rows of a later month."""
    months = flights.split(flights.load_flights(), train_until=1)
    train, test = months.train.iloc[::2], months.test.iloc[::4]
    model = flights.build_model()
    with console.status("packing"):
        learnt_from, judged_by = (
            (_with_passengers(rows), rows[flights.TARGET]) for rows in (train, test)
        )
        with threadpool_limits(flights.THREADS):
            model.fit(*learnt_from)
        flights.packed(model, folder, train=learnt_from, test=judged_by, measure=False)
    version = f"{NAME}/{command(console, folder, 'push', f'{NAME}.bundle')['number']}"
    console.print(f"packed with explanations and a scorer of outliers; pushed as {version}")
    return version, _with_passengers(months.next_month)


def _with_passengers(months: pd.DataFrame) -> pd.DataFrame:
    passengers = [f"P-{number:06d}" for number in months.index]
    return months[flights.FEATURES].assign(**{PASSENGER: passengers}).reset_index(drop=True)


def _explain(console: Console, client: bascule.Client, rows: pd.DataFrame) -> float:
    """How far base and attributions are from the margin."""
    answer = client.predict(rows[:1], parameters={"explain": True})
    attributions = np.asarray(answer["attributions"])[0]
    late = float(np.asarray(answer["probabilities"])[0, 1])
    base = float(np.asarray(answer["attributions_base"])[0])
    off_by = abs(base + float(attributions.sum()) - float(np.log(late / (1 - late))))
    console.print(f"late with {late:.0%}; from {base:+.2f} for a flight of which nothing is known:")
    for column in np.argsort(-np.abs(attributions))[:5]:
        name = rows.columns[column]
        console.print(f"  {name:16} {rows[name].iloc[0]!s:>8}  {attributions[column]:+.3f}")
    console.print(f"all columns add up to the margin within {off_by:.0e}")
    return off_by


def _refuse(console: Console, client: bascule.Client, rows: pd.DataFrame) -> bool:
    strange = rows[:1].assign(temp=900.0, wind_speed=1_000.0, pressure=3.0, distance=90_000)
    try:
        client.predict(strange)
    except BasculeError as refusal:
        console.print(f"refused: {refusal}")
        return True
    return False


def _copy(console: Console, client: bascule.Client, rows: pd.DataFrame) -> int:
    """How many rows were answered before the budget ended it."""
    copied_rows = 0
    try:
        for begin in range(10, len(rows), 50):
            client.predict(rows[begin : begin + 50])
            copied_rows += 50
    except Overloaded as refusal:
        console.print(f"after {copied_rows} rows: {refusal}")
    return copied_rows
