"""The training loop against other policies: `python -m bench.loop census --nannyml FOLDER`.

Chunk by chunk, a champion answers, truths come, and a policy may retrain. Triggers, rows, training,
comparison and verdict are the product's own; packing alone leaves out what decides nothing here
(cost, explanations). A run of chunk t holds chunk t out and is fitted to all before it, so that
"always", which judges nothing and fits to all rows, has the models of the following runs.

With `--unpacked` models answer as they are, which takes a tenth of the time: there is no bundle
whose profile drift could be measured by, so that no policy waits for alarms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import bascule.packing
from bascule import training
from bascule.monitoring import measure_drift, measure_performance
from bascule.packing import pack
from bascule.release import NotWorse, measure_against
from bascule.stats import bootstrap, roc_auc_difference
from bascule.training import ALERTS, Facts, PastRun, Pipeline, Trigger, decide, judged

_START = datetime(2026, 1, 1, tzinfo=UTC)
_quick = partial(pack, measure=False, explain=False, outliers=False, progress=lambda _: None)
_FITS = """
from sklearn.ensemble import HistGradientBoostingClassifier
from bascule.demo import flights

def census(X, y):
    return HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(X, y)

def late(X, y):
    return flights.build_model().fit(X, y)
"""
_BAD = 0.005
"""By how much less area under the curve a promoted version is bad."""
Plant = Callable[[pd.DataFrame, int], pd.DataFrame]


@dataclass(eq=False)
class Unpacked:
    """A fitted model with its held-out rows, in place of a bundle."""

    model: Any
    held_out: tuple[pd.DataFrame, pd.Series]

    def predict(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {"probabilities": self.model.predict_proba(rows)}


@dataclass(eq=False)
class Stream:
    """Rows in order of time, in chunks, and the runs on them."""

    name: str
    table: pd.DataFrame
    target: str
    chunks: Sequence[int]
    windows_a_year: int
    first: int
    folder: Path
    plant: Plant | None = None
    is_packed: bool = True
    runs: dict[int, Any] = field(default_factory=dict)

    def chunk(self, number: int) -> pd.DataFrame:
        return self.table.iloc[self.chunks[number] : self.chunks[number + 1]]

    def run(self, chunk: int) -> Any:
        """What a run gives that begins when the truths of a chunk are there."""
        if chunk not in self.runs:
            begin, end = self.chunks[chunk : chunk + 2]
            rows, kind = self.table.iloc[:end], self.name.split("-")[0]
            if not self.is_packed:
                rows = rows if self.plant is None else self.plant(rows, begin)
                inputs, truth = rows.drop(columns=self.target), rows[self.target]
                fit = training.pipelines.named_code(f"{self.folder / 'fits.py'}:{kind}", "fit")
                model = fit(inputs.iloc[:begin], truth.iloc[:begin])
                self.runs[chunk] = Unpacked(model, (inputs.iloc[begin:], truth.iloc[begin:]))
                return self.runs[chunk]
            file = self.folder / f"{self.name}.parquet"
            (rows if self.plant is None else self.plant(rows, begin)).to_parquet(file, index=False)
            fit = f"{self.folder / 'fits.py'}:{kind}"
            pipeline = Pipeline(
                name=kind, data=str(file), target=self.target, held_out=end - begin, fit=fit
            )
            prepared = training.prepare(pipeline)
            self.runs[chunk] = training.train(prepared, self.folder / "work").bundle
        return self.runs[chunk]

    @cache  # noqa: B019
    def quality(self, run: int, chunk: int) -> float:
        rows = self.chunk(chunk)
        answers = self.run(run).predict(rows.drop(columns=self.target))
        return float(roc_auc_score(rows[self.target], answers["probabilities"][:, 1]))

    @cache  # noqa: B019
    def alerts(self, run: int, chunk: int) -> list[tuple[str, str]]:
        rows, bundle = self.chunk(chunk), self.run(run)
        drift = measure_drift(bundle, rows, windows_a_year=self.windows_a_year)
        worse = measure_performance(
            rows, bundle, by="all", metrics=["auc"], truth_column=self.target
        ).windows[0].metrics[0]  # fmt: skip
        alarms = [("drift", own.sentence) for window in drift.windows for own in window.alarms]
        return [*alarms, *[("performance", "worse")] * worse.is_alarm]

    @cache  # noqa: B019
    def lower(self, champion: Any, challenger: Any, look: int) -> tuple[float | None, str]:
        level = training.confidence_of_look(look)
        if not self.is_packed:
            rows, truth = challenger.held_out
            chances = [own.predict(rows)["probabilities"][:, 1] for own in (champion, challenger)]
            difference = roc_auc_difference(truth.to_numpy() == 1, *chances)
            rarest = int(truth.value_counts().min())
            interval = bootstrap(difference, len(rows), fewest=rarest, reach=0.5, confidence=level)
            return interval.lower, ""
        criterion = NotWorse("roc_auc", ">", 0.0, against="champion")
        found = measure_against(challenger, [criterion], find=lambda _: champion, confidence=level)
        facts = found[criterion.measure]
        return facts.value, facts.note


@dataclass
class Walk:
    """What a policy came to; `trainings` counts fits, those of winners to all rows too."""

    qualities: list[float] = field(default_factory=list)
    trainings: int = 0
    promoted: int = 0
    bad: int = 0


def plain(stream: Stream, every: int, behind: int = 0) -> Walk:
    """Retrain at each so-manieth chunk without a judgement; 0 is never.

    With `behind` 0 on all rows, with 1 without the newest chunk, as the loop.
    """
    walk, run = Walk(), stream.first - 1
    for chunk in range(stream.first, len(stream.chunks) - 1):
        walk.qualities.append(stream.quality(run, chunk))
        if every and (chunk - stream.first + 1) % every == 0 and chunk < len(stream.chunks) - 2:
            run, walk.trainings = chunk + 1 - behind, walk.trainings + 1
    return walk


def looped(stream: Stream, trigger: Trigger, margin: float, *, refit: bool = False) -> Walk:
    """Retrain where the trigger says so; the winner of the comparison answers from then on.

    With `refit` it answers as the model that is fitted to the newest chunk too, which is that of
    the next run; challengers meet it as it was judged. It has no reference for performance.
    """
    walk, champion, look = Walk(), stream.first - 1, 0
    runs: list[PastRun] = []
    answers, last = champion, len(stream.chunks) - 2
    for chunk in range(stream.first, last + 1):
        walk.qualities.append(stream.quality(answers, chunk))
        if chunk == last:
            break
        now = _START + chunk * timedelta(days=365 / stream.windows_a_year)
        alerts = stream.alerts(answers, chunk) if {*ALERTS} & {*trigger.on} else []
        alerts = [own for own in alerts if own[0] == "drift" or answers == champion]
        facts = Facts(runs, alerts, stream.chunks[chunk + 1])
        if not decide(trigger, facts, now).starts:
            continue
        runs.insert(0, PastRun(now, rows=stream.chunks[chunk + 1]))
        look, walk.trainings = look + 1, walk.trainings + 1
        lower, note = stream.lower(stream.run(champion), stream.run(chunk), look)
        if judged("new", "old", lower, note, margin=margin, passes=True).wins:
            before, answers = answers, chunk + refit
            fall = stream.quality(before, chunk + 1) - stream.quality(answers, chunk + 1)
            walk.promoted, walk.bad = walk.promoted + 1, walk.bad + (fall > _BAD)
            walk.trainings += refit
            champion, look = chunk, 0
    return walk


def census(package: Path, folder: Path) -> Stream:
    data = package / "nannyml" / "datasets" / "data"
    later = pd.read_parquet(data / "employment_MA_analysis.pq").merge(
        pd.read_parquet(data / "employment_MA_analysis_target.pq"), on="id"
    )
    table = pd.concat([pd.read_parquet(data / "employment_MA_reference.pq"), later])
    table = table.sort_values("year", kind="stable")
    table = table.drop(columns=["id", "year", "prediction", "predicted_probability"])
    chunks = [*range(0, len(table) - 4_999, 5_000)]
    return Stream("census", table, "employed", chunks, 14, 3, folder)


def late(folder: Path) -> Stream:
    from bascule.demo import flights

    table = flights.load_flights().iloc[::2]
    chunks = [*np.searchsorted(table["month"], range(1, 14)).tolist()]
    return Stream("late", table[[*flights.FEATURES, "late"]], "late", chunks, 12, 2, folder)


def _shuffled(rows: pd.DataFrame, begin: int, target: str, since: int) -> pd.DataFrame:
    """Training rows from `since` on with the labels of others."""
    labels = rows[target].to_numpy(copy=True)
    np.random.default_rng(0).shuffle(labels[since:begin])
    return rows.assign(**{target: labels})


def _plants(stream: Stream) -> dict[str, Plant]:
    target, number = stream.target, "AGEP" if stream.target == "employed" else "distance"

    def broken(rows: pd.DataFrame, begin: int) -> pd.DataFrame:
        since = max(own for own in stream.chunks if own < begin)
        rows = _shuffled(rows, begin, target, since)
        is_broken = (np.arange(len(rows)) >= since) & (np.arange(len(rows)) < begin)
        return rows.assign(**{number: rows[number].where(~is_broken, 0)})

    def other(rows: pd.DataFrame, begin: int) -> pd.DataFrame:
        wrong = (rows[number] > rows[number].median()).astype(rows[target].dtype)
        return rows.assign(**{target: wrong.where(np.arange(len(rows)) < begin, rows[target])})

    return {
        "labels shuffled": lambda rows, begin: _shuffled(rows, begin, target, 0),
        "a broken chunk": broken,
        "another column as the target": other,
    }


def planted(stream: Stream, bad: Stream, name: str, margin: float, chunks: Sequence[int]) -> Walk:
    """The challengers of `bad`, each before the champion of the run before."""
    walk = Walk()
    for chunk in chunks:
        lower, note = stream.lower(stream.run(chunk - 1), bad.run(chunk), 1)
        wins = judged(name, "old", lower, note, margin=margin, passes=True).wins
        fall = stream.quality(chunk - 1, chunk + 1) - bad.quality(chunk, chunk + 1)
        walk.qualities.append(fall)
        walk.trainings, walk.promoted = walk.trainings + 1, walk.promoted + wins
        walk.bad += wins and fall > _BAD
    return walk


def quiet(stream: Stream) -> Stream:
    """The rows in an order that time has no part in: nothing drifts."""
    table = stream.table.sample(frac=1.0, random_state=0)
    return replace(stream, name=f"{stream.name}-quiet", table=table, runs={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stream", choices=("census", "late"))
    parser.add_argument("--nannyml", type=Path, help="the folder of nannyml's unpacked wheel")
    parser.add_argument("--work", type=Path, required=True, help="keeps the runs")
    parser.add_argument("--planted-every", type=int, default=4, help="so-manieth chunk")
    parser.add_argument("--unpacked", action="store_true", help="see above")
    asked = parser.parse_args()
    bascule.packing.pack = _quick
    asked.work.mkdir(parents=True, exist_ok=True)
    (asked.work / "fits.py").write_text(_FITS)
    stream = late(asked.work) if asked.stream == "late" else census(asked.nannyml, asked.work)
    stream.is_packed = not asked.unpacked
    window_h = 365 * 24 / stream.windows_a_year
    print("| policy | mean area | trainings | promoted | bad |\n|---|---|---|---|---|")
    for every in (0, 1, 2, 3):
        _show(f"every {every}", plain(stream, every))
    _show("every 1, newest held out", plain(stream, 1, behind=1))
    margins = (0.0, 0.002, 0.005, 0.01)
    conditions = (("drift", "performance"), ("20 % new rows",), ("40 % new rows",), ("new data",))
    for margin in margins:
        for on in conditions[asked.unpacked :]:
            trigger = Trigger(on=on, cool_down_h=1.5 * window_h)
            for refit in (False, True):
                name = f"{' or '.join(on)}, margin {margin}{', refit' * refit}"
                _show(name, looped(stream, trigger, margin, refit=refit))
    chunks = range(stream.first + 1, len(stream.chunks) - 2, asked.planted_every)
    for name, plant in _plants(stream).items():
        bad = replace(stream, plant=plant, runs={})
        for margin in margins:
            _show(f"{name}, margin {margin}", planted(stream, bad, name, margin, chunks))
    if asked.unpacked:
        return
    trigger = Trigger(on=("drift", "performance"), cool_down_h=0.0)
    _show("quiet", looped(quiet(stream), trigger, 0.0))


def _show(name: str, walk: Walk) -> None:
    mean = float(np.mean(walk.qualities))
    print(f"| {name} | {mean:.4f} | {walk.trainings} | {walk.promoted} | {walk.bad} |", flush=True)


if __name__ == "__main__":
    main()
