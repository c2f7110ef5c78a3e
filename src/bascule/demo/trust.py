"""The second story of the demo: why this answer, may it be given, who copies, whom to forget.

Everything is done by the commands and calls that a user has, in a temporary folder. The story holds
only if each step held: attributions add up, the outlier is refused, the budget ends the copying, no
file of the home has the passenger's name, the chain of acts verifies, and the document is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

import bascule
from bascule.core import BasculeError, ModelFailed, Overloaded
from bascule.demo import flights
from bascule.demo.server import start

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

PASSENGER, NAME = "passenger", "late"
_FORGOTTEN = "Ada-Byron-1815"
_BUDGET_ROWS = 500
_SETTINGS = f"""
[policies.{NAME}]
on_outlier = "refuse"
outlier_p = 0.01
budget_rows_per_day = {_BUDGET_ROWS}
"""


@dataclass(slots=True)
class TrustSummary:
    """What came of each step.

    Attributes:
        off_by: How far base and attributions were from the margin.
        refused: Whether the outlier was refused.
        copied_rows: How many rows a copying caller got before the budget ended it.
        erased_rows: Of the passenger, in the ledger.
        left: Files of the home that still have the name.
        acts: In the chain of the audit, which verified.
        sections: Of the technical documentation.
        missing: How many of its texts a person has yet to write.
    """

    off_by: float = float("nan")
    refused: bool = False
    copied_rows: int = 0
    erased_rows: int = 0
    left: int = -1
    acts: int = 0
    sections: int = 0
    missing: int = 0

    @property
    def held(self) -> bool:
        """Whether each step held."""
        return (
            self.off_by < 1e-6 and self.refused and self.copied_rows <= _BUDGET_ROWS
            and self.erased_rows > 0 and self.left == 0 and self.acts > 0 and self.sections > 0
        )  # fmt: skip


def tell_trust(folder: Path, console: Console) -> TrustSummary:
    """Tell the story in `folder`.

    Raises:
        BasculeError: A step could not be done at all.
    """
    (folder / "bascule.toml").write_text(_SETTINGS, encoding="utf-8")
    home, summary = folder / ".bascule", TrustSummary()
    version, rows = _learn(console, folder, home)
    server = start(version, home=home, folder=folder, records=True)
    try:
        client = bascule.Client(server.url, model=NAME)
        _explain(console, client, rows, summary)
        _refuse(console, client, rows, summary)
        _forgettable(client, rows)
        _copy(console, client, rows, summary)
    finally:
        server.stop()
    _forget(console, folder, home, summary)
    _audit(console, folder, home, summary)
    _document(console, folder, home, version, summary)
    return summary


def _learn(console: Console, folder: Path, home: Path) -> tuple[str, pd.DataFrame]:
    _heading(console, "A model of January, which takes the passenger along and does not use it")
    months = flights.split(flights.load_flights(), train_until=1)
    train, test = months.train.iloc[::2], months.test.iloc[::4]
    model = flights.build_model()
    with threadpool_limits(1):
        model.fit(_with_passengers(train), train[flights.TARGET])
    with console.status("packing"), threadpool_limits(1):
        bundle = bascule.pack(
            model, name=NAME, to=folder / f"{NAME}.bundle", measure=False,
            train=(_with_passengers(train), train[flights.TARGET]),
            test=(_with_passengers(test), test[flights.TARGET]), progress=lambda _: None,
        )  # fmt: skip
    pushed = _command(folder, home, "push", str(bundle.path), "--json")
    version = f"{NAME}/{pushed['number']}"
    console.print(f"packed with explanations and a scorer of outliers; pushed as {version}")
    return version, _with_passengers(months.next_month)


def _with_passengers(months: pd.DataFrame) -> pd.DataFrame:
    passengers = [f"P-{number:06d}" for number in months.index]
    return months[flights.FEATURES].assign(**{PASSENGER: passengers}).reset_index(drop=True)


def _explain(
    console: Console, client: bascule.Client, rows: pd.DataFrame, summary: TrustSummary
) -> None:
    _heading(console, "Why this answer?")
    answer = client.predict(rows[:1], parameters={"explain": True})
    attributions = np.asarray(answer["attributions"])[0]
    late = float(np.asarray(answer["probabilities"])[0, 1])
    base = float(np.asarray(answer["attributions_base"])[0])
    summary.off_by = abs(base + float(attributions.sum()) - float(np.log(late / (1 - late))))
    console.print(f"late with {late:.0%}; from {base:+.2f} for a flight of which nothing is known:")
    order = np.argsort(-np.abs(attributions))[:5]
    for place in order:
        name = rows.columns[place]
        console.print(f"  {name:16} {rows[name].iloc[0]!s:>8}  {attributions[place]:+.3f}")
    console.print(f"all columns add up to the margin within {summary.off_by:.0e}")


def _refuse(
    console: Console, client: bascule.Client, rows: pd.DataFrame, summary: TrustSummary
) -> None:
    _heading(console, "A flight like no other")
    strange = rows[:1].assign(temp=900.0, wind_speed=1_000.0, pressure=3.0, distance=90_000)
    try:
        client.predict(strange)
    except BasculeError as refusal:
        summary.refused = True
        console.print(f"refused: {refusal}")


def _forgettable(client: bascule.Client, rows: pd.DataFrame) -> None:
    """Two flights of the passenger that will ask to be forgotten."""
    client.predict(rows[:2].assign(**{PASSENGER: _FORGOTTEN}))


def _copy(
    console: Console, client: bascule.Client, rows: pd.DataFrame, summary: TrustSummary
) -> None:
    _heading(console, "A caller copies the model")
    try:
        for begin in range(10, len(rows), 50):
            client.predict(rows[begin : begin + 50])
            summary.copied_rows += 50
    except Overloaded as refusal:
        console.print(f"after {summary.copied_rows} rows: {refusal}")


def _forget(console: Console, folder: Path, home: Path, summary: TrustSummary) -> None:
    _heading(console, "A passenger asks to be forgotten")
    erased = _command(folder, home, "erase", _FORGOTTEN, "--field", PASSENGER, "--yes", "--json")
    summary.erased_rows = sum(place["rows"] for place in erased["content"]["places"])
    summary.left = sum(
        _FORGOTTEN.encode() in file.read_bytes() for file in home.rglob("*") if file.is_file()
    )
    console.print(
        f"{summary.erased_rows} rows and texts erased, {summary.left} files still have the name; "
        f"the signed proof: {Path(erased['proof']).name}"
    )


def _audit(console: Console, folder: Path, home: Path, summary: TrustSummary) -> None:
    _heading(console, "Who did what")
    verified = _command(folder, home, "audit", "verify", "--json")
    summary.acts = int(verified["entries"])
    console.print(f"{summary.acts} acts in the chain: none was changed, dropped or reordered")


def _document(
    console: Console, folder: Path, home: Path, version: str, summary: TrustSummary
) -> None:
    _heading(console, "The documents for the regulator")
    written = _command(
        folder, home, "document", "annex-iv", version, "--out", "annex-iv.html", "--json"
    )
    summary.sections, summary.missing = len(written["sections"]), len(written["missing"])
    console.print(
        f"EU AI Act, Annex IV: {summary.sections} sections from evidence, {summary.missing} texts "
        "that a person has yet to write, in red"
    )


def _heading(console: Console, title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left", style="dim")


def _command(folder: Path, home: Path, *words: str) -> Any:
    """What a command prints as JSON; raises `ModelFailed` where it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BASCULE_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("bascule")), *words], cwd=folder, check=False,
        env={**environment, "BASCULE_HOME": str(home)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ModelFailed(
            f"bascule {words[0]} ended with {done.returncode}: {done.stderr[-500:]}",
            hint=f"run it in {folder}",
        )
    return json.loads(done.stdout)
