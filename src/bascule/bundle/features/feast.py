"""Which inputs of a bundle come from a feature store, and Feast, the store.

A bundle names no place: the configuration of a store may name code, so that the caller who opens
the bundle says which store it may read.

Read online, Feast gives a feature that is older than its TTL as if it were fresh, and its join
leaves out rows whose features are all too old or not there yet: see `FilledProgram` and `join`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.bundle.disk import FEATURES, Manifest, parse, read_file, read_manifest, shaped
from bascule.core import DType, Field, Invalid, Signature, first_line, library

if TYPE_CHECKING:
    import pandas as pd

AGE = "feature_age_s"
"""The column that a call gets: the age of the oldest feature that was looked up for a row."""
_TIME = "event_timestamp"
"""What Feast calls the time of a row."""
_WHAT = "a list of features"


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `data/features.json`.

    Attributes:
        source: A feature service.
        keys: Of the entities, each INT64 or BYTES.
        max_age_s: By input, how old its feature may be; 0 for any age.
    """

    source: str
    keys: Mapping[str, DType]
    max_age_s: Mapping[str, float]

    def fields(self, inputs: Sequence[Field]) -> tuple[Field, ...]:
        """Inputs as callers see them: keys are needed, and features may be left out."""
        known = {field.name for field in inputs}
        keys = (Field(name, dtype) for name, dtype in self.keys.items() if name not in known)
        return (*keys, *map(self._field, inputs))

    def _field(self, field: Field) -> Field:
        if field.name not in self.max_age_s:
            return replace(field, nullable=field.nullable and field.name not in self.keys)
        is_flag, is_whole = field.dtype is DType.BOOL, field.dtype.is_integer
        return replace(
            field, nullable=True, optional=True, booleans=field.booleans or is_flag,
            dtype=DType.FP64 if is_flag or is_whole else field.dtype,
        )  # fmt: skip


class Feast:
    """One store, open: its calls may block, and are made one at a time.

    Views on demand are not supported.
    """

    def __init__(self, folder: str) -> None:
        """Raises `Invalid` or `MissingExtra`."""
        feast = library("feast", "feast")
        with _refused(f"the feature store {folder}"):
            self._store = feast.FeatureStore(repo_path=folder)
        # Feast parses a service anew each time, which takes three times as long as to read a row.
        self._service = cache(self._store.get_feature_service)

    def describe(self, service: str) -> Features:
        """The keys and all features of a service; raises `Invalid`."""
        dtypes: dict[str, DType] = {}
        max_age_s: dict[str, float] = {}
        with _refused(service):
            for view, features, keys in self._views(service):
                for column in view.entity_columns:
                    is_text = column.dtype.to_value_type().name == "STRING"
                    dtypes[keys[column.name]] = DType.BYTES if is_text else DType.INT64
                if twice := max_age_s.keys() & features:
                    raise ValueError(f"two of its views have a feature {min(twice)!r}")
                age_s = view.ttl.total_seconds() if view.ttl else 0.0
                max_age_s |= dict.fromkeys(features, age_s)
        return Features(source=service, keys=dtypes, max_age_s=max_age_s)

    def read(
        self, features: Features, keys: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, tuple[Sequence[Any], Sequence[float]]]:
        """By feature: the newest values, None where missing, and their times since the epoch."""
        kinds = {DType.BYTES: str, DType.INT64: int}
        rows = {name: [*map(kinds[dtype], keys[name])] for name, dtype in features.keys.items()}
        answer = self._store.get_online_features(self._service(features.source), rows)
        read = answer.to_dict(include_event_timestamps=True)
        return {name: (read[name], read[f"{name}__ts"]) for name in features.max_age_s}

    def join(self, offered: Features, rows: pd.DataFrame, time: str) -> pd.DataFrame:
        """See `join`; the columns of `rows` are `time` and the keys.

        Each view is joined alone, to rows that are all different: the join of the local store keeps
        one of the rows with equal keys and time, and counts as keys those of the views before alone
        (feast-dev/feast, issues 6787 and 5590).
        """
        with _refused(offered.source):
            for view, features, keys in self._views(offered.source):
                on = [*keys.values(), time]
                distinct = rows[on].drop_duplicates().set_axis([*keys, _TIME], axis=1)
                names = [f"{view.name}:{name}" for name in features]
                joined = self._store.get_historical_features(distinct, names).to_df()
                joined = joined[[*keys, _TIME, *features]].set_axis([*on, *features], axis=1)
                rows = rows.merge(joined, how="left", on=on, validate="many_to_one")
        return rows[[*offered.max_age_s]]

    def _views(self, service: str) -> Iterator[tuple[Any, list[str], Mapping[str, str]]]:
        """Each view, its features in the service, and what its keys are called in rows."""
        for projection in self._service(service).feature_view_projections:
            view = self._store.get_feature_view(projection.name)
            keys = [column.name for column in view.entity_columns]
            renamed = {key: projection.join_key_map.get(key, key) for key in keys}
            yield view, [feature.name for feature in projection.features], renamed


def declared(path: str | Path, manifest: Manifest) -> Features | None:
    """What a bundle says to look up; raises `Untrusted` for a file of another form."""
    if FEATURES not in manifest.files:
        return None
    content = parse(read_file(path, manifest, FEATURES), FEATURES, what=_WHAT)
    return shaped(content, Features, FEATURES, what=_WHAT)


def signature_for_callers(path: str | Path) -> Signature:
    """The signature of a bundle, on a server with a feature store."""
    manifest = read_manifest(path, verify=False)
    features, signature = declared(path, manifest), manifest.signature
    if features is None:
        return signature
    return replace(signature, inputs=features.fields(signature.inputs))


def _described(address: str) -> tuple[Feast, Features]:
    folder, _, service = address.partition("#")
    if not folder or not service:
        raise Invalid(f"features: {address!r} is not STORE#SOURCE", hint="write REPOSITORY#SERVICE")
    store = Feast(folder)
    return store, store.describe(service)


def features_of(address: str, signature: Signature) -> Features:
    """The inputs that `STORE#SOURCE` has features for, by name; raises `Invalid` for none."""
    _, offered = _described(address)
    inputs = [field.name for field in signature.inputs if not field.shape]
    max_age_s = {name: age_s for name, age_s in offered.max_age_s.items() if name in inputs}
    if not max_age_s or not offered.keys.keys().isdisjoint(max_age_s):
        raise Invalid(
            f"{address} has no feature that is named as an input, or one named as a key",
            hint=f"it has {', '.join(offered.max_age_s)}, and the model takes {', '.join(inputs)}",
        )
    if AGE in inputs or AGE in offered.keys:
        raise Invalid(f"no input or key may be named {AGE!r}", hint="the ledger has the age there")
    return Features(source=offered.source, keys=offered.keys, max_age_s=max_age_s)


def join(address: str, rows: pd.DataFrame, time: str) -> pd.DataFrame:
    """All rows, in their order, and the features of `STORE#SOURCE`; raises `Invalid`.

    A value is the newest whose time is not after that of the row, and no older than the store
    allows; missing where there is none. Columns with the names of features are replaced.
    """
    import pandas as pd

    store, offered = _described(address)
    if absent := [name for name in (time, *offered.keys) if name not in rows]:
        raise Invalid(
            f"{address} is joined by {absent[0]!r}, and the rows have no such column",
            hint="rename a column of the rows",
        )
    keyed = rows[[*offered.keys]].copy()
    try:
        keyed[time] = pd.to_datetime(rows[time], utc=True)
    except (TypeError, ValueError) as problem:
        raise Invalid(
            f"{time!r} has no times: {first_line(problem)}", hint="write ISO 8601"
        ) from None
    joined = store.join(offered, keyed, time)
    return rows.assign(**{name: joined[name].to_numpy() for name in joined})


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as problem:  # a configuration, and what it names, may raise anything
        raise Invalid(
            f"Feast refuses {what}: {first_line(problem)}", hint="see feast feature-services list"
        ) from problem
