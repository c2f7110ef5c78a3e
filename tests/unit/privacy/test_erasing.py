"""Erasure of a person: gone from every byte of the home, others untouched, proved."""

from __future__ import annotations

import json

import pytest
from tests.homes import finished, inline_jobs
from tests.privacy_home import ADA, found_in, full_home, rows_of_others

from bascule.app import open_catalogue
from bascule.jobs import Task
from bascule.kinds import KINDS
from bascule.privacy import Erasing, Erasure, Person, verify_proof
from bascule.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})


def erasing(settings, text=ADA, *, name="e1"):
    return Erasing(
        Erasure(
            id=name, home=settings.home, catalogue=open_catalogue(settings),
            person=Person("customer_id", text), by="dpo",
        )
    )  # fmt: skip


def test_a_person_is_gone_from_every_byte_and_the_others_stay(settings, tmp_path):
    full_home(settings, tmp_path / "outside")
    assert len(found_in(settings.home, ADA)) > 6
    others = rows_of_others(settings.home, ADA)
    asked = {"field": "customer_id", "subject": ADA}
    jobs = inline_jobs(settings)
    job = jobs.submit(Task(kind="erasure", input=KINDS["erasure"].parse(asked), by="dpo"))
    finished(jobs)
    done = jobs.get(job.id)
    assert done.problem is None
    proof = verify_proof(settings.home / "erasures" / f"{job.input['id']}.json", home=settings.home)
    assert proof.content["left"] == []
    assert proof.problems == []
    assert ADA not in json.dumps(proof.content)
    assert found_in(tmp_path, ADA) == []
    assert rows_of_others(settings.home, ADA) == others
    rows = {place["place"]: place["rows"] for place in proof.content["places"]}
    assert rows["ledger late"] == 9
    assert sum(rows for place, rows in rows.items() if place == "batch") == 8
    assert any("postgresql://h/d#scores" in one for one in proof.content["elsewhere"])
