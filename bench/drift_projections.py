"""False alarms and power of the drift of texts and images: `python -m bench.drift_projections`.

A year is 365 days through the profiles and the `ModelWatch` of the product.
Words of a text are drawn from the mix of its topic, by Zipf's law; pixels of an image are smooth
patterns with noise. On days that are not alike, the shares of the topics and the light vary by an
AR(.7) with a deviation of 0.05 of that of the rows.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.statements import profile_columns, profile_of
from bascule.core import DType, Field
from bascule.monitoring.drift.judging import ModelWatch
from bascule.stats import Profile, exact_interval

Draw = Callable[[int, float, np.random.Generator], NDArray[Any]]
"""So many rows of a day whose shift is so many deviations."""

_START = date(2026, 1, 5)
_DAYS = 365
_BASELINE_ROWS = 5_000
_COLUMNS = 8
_TRIES = 50
_DAY_DEVIATION, _MEMORY = 0.05, 0.7
_LETTERS = np.array(list("etaoinshrdlucmfwypvbgk"))
_TOPIC_WORDS = 400


def _words(random: np.random.Generator) -> list[str]:
    return ["".join(random.choice(_LETTERS, random.integers(2, 9))) for _ in range(_TOPIC_WORDS)]


_TOPICS = [_words(np.random.default_rng(seed)) for seed in range(4)]
_ZIPF = 1 / np.arange(1, _TOPIC_WORDS + 1)
_ZIPF /= _ZIPF.sum()


def texts(rows: int, shift: float, random: np.random.Generator, other: float = 0.0) -> NDArray[Any]:
    """Texts of three topics; a shift has more of the first; `other` is the share of a fourth."""
    share = 1 / 3 + shift * np.sqrt(2 / 9)
    shares = np.array([share, (1 - share) / 2, (1 - share) / 2, 0.0]) * (1 - other)
    shares[3] = other
    topics = random.choice(4, rows, p=shares)
    lengths = 5 + random.poisson(12, rows)
    words = random.choice(_TOPIC_WORDS, int(lengths.sum()), p=_ZIPF)
    drawn, at = np.empty(rows, object), 0
    for row, (topic, length) in enumerate(zip(topics.tolist(), lengths.tolist(), strict=True)):
        drawn[row] = " ".join(_TOPICS[topic][word] for word in words[at : at + length])
        at += length
    return drawn


_PLACES = np.linspace(0, 2 * np.pi, 16)


def images(
    rows: int, shift: float, random: np.random.Generator, light: float = 0.0
) -> NDArray[Any]:
    """Waves of any phase with noise; the light of an image has the deviation 0.1."""
    phases = random.uniform(0, 2 * np.pi, (2, rows, 1))
    waves = np.sin(_PLACES + phases[0])[:, :, None] * np.sin(_PLACES + phases[1])[:, None, :]
    lights = random.normal(0.5 + light + 0.1 * shift, 0.1, (rows, 1, 1))
    return np.asarray(lights + 0.2 * waves + random.normal(0, 0.1, waves.shape))


_FIELDS: dict[Draw, Field] = {
    texts: Field("text", DType.BYTES),
    images: Field("image", DType.FP64, (16, 16)),
}


def _texts_of_another(share: float) -> Draw:
    return lambda rows, shift, random: texts(rows, shift, random, share)


def _darker(by: float) -> Draw:
    return lambda rows, shift, random: images(rows, shift, random, -by)


def _profile(draw: Draw, field: Field, rows: int, shift: float, random: Any) -> Profile:
    columns = {field.name: draw(rows, shift, random)}
    return profile_of(profile_columns(columns, (field,), (), {field.name}))


def _shifts(are_alike: bool, random: np.random.Generator) -> Iterator[float]:
    shift = 0.0
    for _ in range(_DAYS):
        step = random.normal(0, _DAY_DEVIATION * np.sqrt(1 - _MEMORY**2))
        shift = 0.0 if are_alike else _MEMORY * shift + step
        yield shift


def alarms_of_a_year(draw: Draw, rows: int, *, are_alike: bool, seed: int) -> int:
    """Columns with an alarm, over all days of a year without drift."""
    random = np.random.default_rng(seed)
    field = _FIELDS[draw]
    watch = ModelWatch({"input": _profile(draw, field, _BASELINE_ROWS, 0.0, random)})
    alarms = 0
    for day, shift in enumerate(_shifts(are_alike, random)):
        window = {"input": _profile(draw, field, rows, shift, random)}
        alarms += len(watch.judge(window, _START + timedelta(days=day)).alarms)
    return alarms


def power(draw: Draw, changed: Draw, rows: int, tries: int) -> float:
    """The share of first windows of a change that raise an alarm."""
    random = np.random.default_rng(0)
    field = _FIELDS[draw]
    baseline = _profile(draw, field, _BASELINE_ROWS, 0.0, random)
    alarmed = 0
    for _ in range(tries):
        window = {"input": _profile(changed, field, rows, 0.0, random)}
        alarmed += bool(ModelWatch({"input": baseline}).judge(window, _START).alarms)
    return alarmed / tries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    print("| change | rows | first window raises an alarm |\n|---|---|---|")
    for rows in (50, 500):
        for share in (0.1, 0.2, 0.3, 0.5):
            share_found = power(texts, _texts_of_another(share), rows, _TRIES)
            print(f"| {share:.0%} of the texts are of a new topic | {rows} | {share_found:.2f} |")
        for light in (0.03, 0.05, 0.1):
            share_found = power(images, _darker(light), rows, _TRIES)
            print(f"| images darker by {light / 0.1:.1f} deviations | {rows} | {share_found:.2f} |")
    print("\n| rows of | days | rows | years | alarms a year (4 are allowed) |")
    print("|---|---|---|---|---|")
    for draw, kind in itertools.product((texts, images), ("alike", "AR(.7)")):
        years = [
            alarms_of_a_year(draw, options.rows, are_alike=kind == "alike", seed=seed)
            for seed in range(options.years)
        ]
        tests = options.years * _DAYS * _COLUMNS
        low, high = (end * _DAYS * _COLUMNS for end in exact_interval(sum(years), tests))
        mean = sum(years) / options.years
        print(
            f"| {draw.__name__} | {kind} | {options.rows} | {options.years} "
            f"| {mean:.2f} [{low:.2f}, {high:.2f}] |"
        )


if __name__ == "__main__":
    main()
