"""Compliance documents: what is there is shown, what is not is missing, and nothing is invented."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import msgspec
import pytest
from tests.production import Day, fill, packed
from tests.unit.registry.conftest import write_bundle

from bascule.app import open_catalogue, open_registry
from bascule.catalogue import events
from bascule.core import Invalid, NotFound
from bascule.documents import Text, markdown, page
from bascule.jobs import Task, Unrecorded
from bascule.kinds import KINDS
from bascule.release.compliance import DocumentList, draft, known_lists, read_answers, read_list
from bascule.release.compliance.drafting import EVIDENCE
from bascule.settings import load_settings

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
SPEC = msgspec.convert(
    {"title": "Review", "norm": "House rules", "sections": [
        {"id": "purpose", "title": "Purpose", "norm": "Rule 1", "facts": ["quality", "fairness"],
         "ask": "the purpose", "who": "owner"},
    ]},
    DocumentList,
)  # fmt: skip
ALWAYS = {
    "version", "at-a-glance", "intended-use", "inputs", "outputs", "limits", "parity", "cost",
    "environment", "erasures", "rollouts", "history", "acts", "retention", "access",
    "release-rules",
}  # fmt: skip
"""Facts that every version has, or nearly: without one, its kind of statement is named."""


def drafted(facts=None, answers=None):
    return draft("review", SPEC, facts or {}, answers or {}, about="late/1", now=T0)


@pytest.fixture
def answers(tmp_path):
    """`answers("any", "purpose", TEXT)`: what people wrote, as read for the document `review`."""

    def read(document, section, text):
        file = tmp_path / "answers.toml"
        file.write_text(f'[{document}]\n{section} = "{text}"\n')
        return read_answers(file, "review", SPEC)

    return read


def test_what_is_not_there_is_missing_with_who_and_how_and_in_red():
    document, missing = drafted({"quality": (Text("accuracy 0.9"),)})
    assert [(lack.what, lack.who) for lack in missing] == [
        ("evidence: fairness", "operator of the model"),
        ("the purpose", "owner"),
    ]
    assert missing[1].how == '[review] purpose = "..." in the answers'
    assert '<span class="badge bad">the purpose</span>' in page(document)
    assert "accuracy 0.9" in markdown(document)


def test_an_answer_fills_a_section_and_one_for_any_document_does_too(answers):
    for where in ("review", "any"):
        document, missing = drafted(answers=answers(where, "purpose", "Delays <b>of</b>"))
        assert {lack.what for lack in missing} == {"evidence: quality", "evidence: fairness"}
        assert "Delays &lt;b&gt;of" in page(document)
    _, missing = drafted(answers=answers("any", "purpose", " "))
    assert "the purpose" in {lack.what for lack in missing}


def test_an_answer_to_no_section_is_refused(answers):
    with pytest.raises(Invalid, match="'pupose', which is no section"):
        answers("review", "pupose", "Delays.")


@pytest.mark.parametrize("name", sorted(known_lists()))
def test_our_lists_name_articles_known_facts_and_a_person_for_each_question(name):
    sections = read_list(name).sections
    assert len({section.id for section in sections}) == len(sections)
    for section in sections:
        assert section.norm
        assert set(section.facts) <= ALWAYS | EVIDENCE.keys(), section.id
        assert section.facts or section.ask, section.id
        assert bool(section.ask) == bool(section.who), section.id


def test_annex_iv_has_its_nine_points_in_order():
    points = [int(section.title[0]) for section in read_list("annex-iv").sections]
    assert points == sorted(points)
    assert set(points) == set(range(1, 10))


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "bascule.toml").write_text(
        'home = "home"\n[monitoring]\nretention_days = 183\n'
        '[monitoring.private]\n"late.name" = "hash"\n"other.city" = "omit"\n'
        '[documents]\nlists = ["house.toml"]\n'
    )
    (tmp_path / "house.toml").write_text(
        'title = "House review"\nnorm = "House rules"\nsections = [\n'
        '  { id = "ethics", title = "Ethics", norm = "Rule 2", facts = ["ethics", '
        '"history"] },\n]\n'
    )
    settings = load_settings(tmp_path, environ={})
    registry = open_registry(settings)
    version = registry.push(write_bundle(tmp_path / "late"), by="ada")
    quality = {"rows": 50, "overall": {"accuracy": 0.9, "auc": None}}
    registry.add_statement(version, "quality", quality, at=T0, by="ci")
    registry.set_alias("late", "champion", 1, by="bo", reason="reviewed by Bo")
    return settings


def written(settings, name):
    task = Task(kind="document", input={"model": "late/1", "document": name})
    return KINDS["document"].run(settings, task, Unrecorded())


def lacks(made):
    return {lack["what"] for lack in made["json"]["missing"]}


def test_facts_come_from_history_settings_and_statements(settings):
    made = written(settings, "dpia")
    assert "183" in made["markdown"]
    assert "late.name" in made["markdown"]
    assert "other.city" not in made["markdown"]
    assert "No erasure is recorded." in made["markdown"]
    with open_catalogue(settings).write() as connection:
        for model, by in (("late", "dora"), ("other", "olga")):
            erased = events.Event(
                events.Subject("erasure", model), "erased", T0, by, body={"model": model}
            )
            events.append(connection, erased)
    made = written(settings, "dpia")
    assert "dora" in made["markdown"]
    assert "olga" not in made["markdown"]
    assert "reviewed by Bo" in written(settings, "sr-11-7")["html"]


def test_without_a_ledger_logs_and_gaps_are_missing_and_no_zero_is_invented(settings):
    made = written(settings, "article-12")
    assert {"evidence: logs", "evidence: gaps", "evidence: monitoring"} <= lacks(made)
    assert "days without an answer" not in made["markdown"]


def test_a_list_of_the_project_is_a_document_and_a_statement_its_fact(settings):
    assert lacks(written(settings, "house")) == {"evidence: ethics"}
    registry = open_registry(settings)
    vote = {"board": "ethics", "in_favour": 0.75}
    registry.add_statement(registry.resolve("late/1"), "ethics", vote, at=T0, by="ci")
    made = written(settings, "house")
    assert lacks(made) == set()
    assert "0.75" in made["markdown"]
    assert "2026-03-01T12:00 UTC by ci" in made["markdown"]


def test_a_broken_list_names_its_file_and_an_unknown_document_the_known(settings, tmp_path):
    (tmp_path / "house.toml").write_text('title = "House review"\n')
    with pytest.raises(Invalid, match=r"house\.toml: .*norm"):
        written(settings, "house")
    with pytest.raises(NotFound) as caught:
        written(settings, "annex-v")
    assert "annex-iv" in caught.value.hint


def test_the_model_card_has_metadata_that_the_hub_reads(settings, tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "answers.toml").write_text('[model-card]\nlicence = "apache-2.0"\n')
    card = ModelCard(written(settings, "model-card")["markdown"])
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "bascule")
    results = [(one.metric_type, one.metric_value) for one in card.data.eval_results]
    assert results == [("accuracy", 0.9)]


@pytest.mark.parametrize(("packed_as", "told"), [("Apache-2.0", "apache-2.0"), ("not known", None)])
def test_the_model_card_has_the_licence_that_the_weights_were_packed_with(
    settings, packed_as, told
):
    from huggingface_hub import ModelCard

    registry = open_registry(settings)
    body = {"model_parameters": {"engine": "llama.cpp", "licence": packed_as}}
    registry.add_statement(registry.resolve("late/1"), "provenance", body, at=T0, by="ci")
    assert ModelCard(written(settings, "model-card")["markdown"]).data.license == told


def test_the_lists_of_ours_are_toml_a_section_a_line():
    for file in known_lists().values():
        sections = tomllib.loads(file.read_text())["sections"]
        assert file.read_text().count("{ id = ") == len(sections)


@pytest.mark.slow
def test_logs_are_summed_with_the_days_that_lack_and_performance_on_truths(tmp_path):
    settings = load_settings(tmp_path, {"BASCULE_HOME": str(tmp_path / "home")})
    bundle = packed(tmp_path)
    open_registry(settings).push(bundle.path, by="ada")
    fill(settings.home, bundle, "1", [Day(5, rows=300), Day(4, errors=3), Day(2, truths=0.5)])
    made = written(settings, "article-12")
    rows = {
        row[0]: row[1]
        for section in made["json"]["sections"]
        for block in section["blocks"]
        if block["kind"] == "table"
        for row in block["rows"]
    }
    assert rows["rows, with failed requests"] == "703"
    assert (rows["callers"], rows["requests that failed"]) == ("1", "3")
    assert rows["days without an answer"] == "1 of 4"
    assert lacks(made).isdisjoint({"evidence: logs", "evidence: gaps", "evidence: monitoring"})
    assert "evidence: performance" not in lacks(written(settings, "sr-11-7"))
