"""The port of feature stores, and the statement that says which inputs of a bundle come from one.

The statement names no place: the configuration of a store may name code, so that the caller who
opens a bundle says which store it may read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bascule.bundle.disk import read_statements
from bascule.core import DType, Field, Invalid, Signature, Untrusted, first_line, load_named

if TYPE_CHECKING:
    import pandas as pd

FEATURES_KIND = "features"
STORES: dict[str, str] = {"feast": "bascule.bundle.features.feast:Feast"}
"""The adapters, by the scheme of an address; an address without one is of the first."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a statement of the kind `features`.

    Attributes:
        source: A feature service, or `VIEW:FEATURE,VIEW:FEATURE`.
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


class FeatureStore(Protocol):
    """One store, open. Its calls may block, and are made from one thread at a time."""

    def describe(self, source: str) -> Features:
        """The keys and all features of a source; raises `Invalid`."""

    def read(
        self, features: Features, keys: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, tuple[Sequence[Any], Sequence[float]]]:
        """By feature: the newest values, None where missing, and their times since the epoch."""

    def join(self, source: str, rows: pd.DataFrame, time: str) -> pd.DataFrame:
        """All rows, in their order, with the features as they were at their time."""


def open_store(address: str) -> FeatureStore:
    """The store at `PATH` or `SCHEME://PATH`; raises `Invalid` or `MissingExtra`."""
    scheme, _, place = address.rpartition("://")
    kind = scheme or next(iter(STORES))
    if kind not in STORES:
        raise Invalid(f"no feature store {kind!r}", hint=f"these are known: {', '.join(STORES)}")
    store: FeatureStore = load_named(STORES[kind])(place)
    return store


def _described(address: str) -> tuple[FeatureStore, Features]:
    place, _, source = address.partition("#")
    if not place or not source:
        raise Invalid(f"features: {address!r} is not STORE#SOURCE", hint="write REPOSITORY#SERVICE")
    store = open_store(place)
    return store, store.describe(source)


def features_of(address: str, signature: Signature) -> Features:
    """The inputs that `STORE#SOURCE` has features for, by name; raises `Invalid` for none."""
    _, offered = _described(address)
    inputs = [one.name for one in signature.inputs if not one.shape]
    found = {name: age_s for name, age_s in offered.max_age_s.items() if name in inputs}
    if not found or not offered.keys.keys().isdisjoint(found):
        raise Invalid(
            f"{address} has no feature that is named as an input, or one named as a key",
            hint=f"it has {', '.join(offered.max_age_s)}, and the model takes {', '.join(inputs)}",
        )
    return Features(source=offered.source, keys=offered.keys, max_age_s=found)


def declared(path: str | Path, store: str) -> Features | None:
    """What a bundle says to look up; None without a store. Raises `Untrusted` for another form."""
    said = read_statements(path, FEATURES_KIND) if store else None
    try:
        return msgspec.convert(said[-1].body, Features) if said else None
    except msgspec.ValidationError as problem:
        raise Untrusted(f"the statement on features: {problem}", hint="pack it again") from None


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
    asked = rows[[*offered.keys]].copy()
    try:
        asked[time] = pd.to_datetime(rows[time], utc=True)
    except (TypeError, ValueError) as problem:
        raise Invalid(
            f"{time!r} has no times: {first_line(problem)}", hint="write ISO 8601"
        ) from None
    joined = store.join(offered.source, asked, time)
    return rows.assign(**{name: joined[name].to_numpy() for name in offered.max_age_s})
