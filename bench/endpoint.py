"""An endpoint for `bench.against --endpoint`: a canary, a sticky header, and keys for callers."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

from sklearn.ensemble import GradientBoostingClassifier

import bascule
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.endpoints import Arm, Endpoints, EndpointStore, Plan, PlanEvent
from bascule.registry import CatalogueKeys, open_registry
from bascule.registry.stores import Records
from bascule.security import Permission, create_key
from bench.subject import NAME, ImportedModel

HEADERS = "headers.json"
"""The file of a home with what its callers send."""


def make(folder: Path, subject: ImportedModel) -> Path:
    """A home whose endpoint `gb` has two arms; both take and give the fields of `subject`."""
    home = folder / "endpoint"
    shutil.rmtree(home, ignore_errors=True)
    registry = open_registry(home)
    registry.push(subject.bundle, by="bench")
    model = GradientBoostingClassifier(n_estimators=5).fit(
        subject.rows, subject.truth.argmax(axis=1)
    )
    other = bascule.pack(
        model, name=NAME, train=subject.rows, to=folder / "candidate", measure=False, overwrite=True
    )
    registry.push(other.path, by="bench")
    catalogue = Catalogue(SqliteDatabase(home / "catalogue.db"))
    store = EndpointStore(catalogue)
    endpoints = Endpoints(store, lambda: registry)
    endpoints.deploy(f"{NAME}/1", by="bench")
    arms = Arm("current", f"{NAME}/1", 95.0), Arm("candidate", f"{NAME}/2", 5.0)
    now = datetime.now(UTC)
    event = PlanEvent("changed", now, "bench", "", "a canary")
    # Of a rollout, so that answers are looked at.
    endpoints.apply(Plan(NAME, 2, arms, slower_than_s=(0.05,), rollout="bench"), event)
    keys = CatalogueKeys(Records(catalogue))
    _, token = create_key(keys, "bench", [Permission("infer", NAME)], now=now, by="bench")
    said = {"Authorization": f"Bearer {token}", "Bascule-Sticky": "ada"}
    (home / HEADERS).write_text(json.dumps(said))
    return home
