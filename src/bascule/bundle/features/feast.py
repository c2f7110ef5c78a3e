"""Feast as a feature store: the folder of a Feast repository, read with its own library.

Read online, Feast gives a feature that is older than its TTL as if it were fresh, and its join
leaves out rows whose features are all too old or not there yet: see `filled` and `Feast.join`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from bascule.bundle.features.port import Features
from bascule.core import DType, Invalid, MissingExtra, first_line

if TYPE_CHECKING:
    import pandas as pd

_TIME = "event_timestamp"
"""What Feast calls the time of a row."""


class Feast:
    """See `FeatureStore`; views on demand are not supported."""

    def __init__(self, place: str) -> None:
        try:
            from feast import FeatureStore
        except ImportError:
            raise MissingExtra("Feast is missing", hint="pip install 'bascule[feast]'") from None
        with _refused(f"the feature store {place}"):
            self._store = FeatureStore(repo_path=place)
        # Feast parses a service anew each time, which takes three times as long as to read a row.
        self._service = cache(self._store.get_feature_service)

    def describe(self, source: str) -> Features:
        """See `FeatureStore.describe`."""
        dtypes: dict[str, DType] = {}
        max_age_s: dict[str, float] = {}
        with _refused(source):
            for view, features, keys in self._views(source):
                for column in view.entity_columns:
                    is_text = column.dtype.to_value_type().name == "STRING"
                    dtypes[keys[column.name]] = DType.BYTES if is_text else DType.INT64
                if twice := max_age_s.keys() & features:
                    raise ValueError(f"two of its views have a feature {min(twice)!r}")
                age_s = view.ttl.total_seconds() if view.ttl else 0.0
                max_age_s |= dict.fromkeys(features, age_s)
        return Features(source=source, keys=dtypes, max_age_s=max_age_s)

    def read(
        self, features: Features, keys: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, tuple[Sequence[Any], Sequence[float]]]:
        """See `FeatureStore.read`."""
        kinds = {DType.BYTES: str, DType.INT64: int}
        rows = {name: [*map(kinds[dtype], keys[name])] for name, dtype in features.keys.items()}
        answer = self._store.get_online_features(self._named(features.source), rows)
        read = answer.to_dict(include_event_timestamps=True)
        return {name: (read[name], read[f"{name}__ts"]) for name in features.max_age_s}

    def join(self, source: str, rows: pd.DataFrame, time: str) -> pd.DataFrame:
        """See `FeatureStore.join`; each view is joined alone, to rows that are all different.

        The join of the local store keeps one of the rows with equal keys and time, and counts as
        keys those of the views before alone (feast-dev/feast, issues 6787 and 5590).
        """
        with _refused(source):
            for view, features, keys in self._views(source):
                on = [*keys.values(), time]
                asked = rows[on].drop_duplicates().set_axis([*keys, _TIME], axis=1)
                names = [f"{view.name}:{name}" for name in features]
                found = self._store.get_historical_features(asked, names).to_df()
                found = found[[*keys, _TIME, *features]].set_axis([*on, *features], axis=1)
                rows = rows.merge(found, how="left", on=on, validate="many_to_one")
        return rows

    def _named(self, source: str) -> Any:
        """A feature service, or a list of features."""
        if ":" in source:
            return source.split(",")
        return self._service(source)

    def _views(self, source: str) -> Iterator[tuple[Any, list[str], Mapping[str, str]]]:
        """Each view, the features that are meant of it, and what its keys are called in rows."""
        named = self._named(source)
        parts: list[tuple[str, list[str], Mapping[str, str]]]
        if isinstance(named, list):
            pairs = [one.split(":", 1) for one in named]
            parts = [
                (name, [own for view, own in pairs if view == name], {}) for name in dict(pairs)
            ]
        else:
            parts = [
                (one.name, [own.name for own in one.features], one.join_key_map)
                for one in named.feature_view_projections
            ]
        for name, features, renamed in parts:
            view = self._store.get_feature_view(name)
            keys = [one.name for one in view.entity_columns]
            yield view, features, {key: renamed.get(key, key) for key in keys}


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as problem:  # a configuration, and what it names, may raise anything
        raise Invalid(
            f"Feast refuses {what}: {first_line(problem)}", hint="see feast feature-services list"
        ) from problem
