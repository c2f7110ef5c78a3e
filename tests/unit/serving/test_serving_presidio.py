"""Personal data that Presidio finds in prompts and answers, with its real analyzer.

There is no trained model of spaCy here: the one of these tests is a package whose names are listed.
"""

from __future__ import annotations

import sys
import time

import pytest
from tests.own_environments import files_of

from bascule.core import DType, Field, Invalid, Refused
from bascule.serving.execution import check_chain, presidio, read_chain, values_of_keys
from bascule.serving.execution.text_checks import TextCheck, TextFilter

pytestmark = pytest.mark.slow  # its environment takes a minute
PHONE = "+49 151 23456789"


def write_package(folder, name, code, model=None):
    package = folder / name / "model"
    package.parent.mkdir()
    (package.parent / "__init__.py").write_text(code)
    if model is not None:
        model.to_disk(package)
    (folder / f"{name}-1.0.dist-info").mkdir()
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    """Packages beside Presidio: `en_names`, a model, and `en_none`, which is none."""
    folder = tmp_path_factory.mktemp("models")
    files = files_of("presidio", python=f"{sys.version_info.major}.{sys.version_info.minor}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(files), str(folder)])
        import spacy

        model = spacy.blank("en")
        names = {"PERSON": "Ada Lovelace", "GPE": "London", "FAC": "Tower Bridge"}
        model.add_pipe("entity_ruler").add_patterns(
            [{"label": label, "pattern": text} for label, text in names.items()]
        )
        load = "import pathlib, spacy\n\ndef load(**options):\n    "
        load += "return spacy.load(pathlib.Path(__file__).parent / 'model', **options)\n"
        write_package(folder, "en_names", load, model)
        write_package(folder, "en_none", "")
        yield


def filtered(text, size, check):
    counts, pieces = [], []
    of_text = TextFilter([check], 64, lambda *of: counts.append(of))
    for at in range(0, len(text), size):
        is_last = at + size >= len(text)
        pieces.append(of_text.feed(text[at : at + size], is_last=is_last))
    return pieces, counts


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_mark_stands_for_each_match_however_an_answer_is_cut(size):
    check = TextCheck("redact", pii=("phone", "person", "place", "email"), spacy_model="en_names")
    sentence = f"Ada Lovelace of London has {PHONE} and a@b.org. Nothing of Tower Bridge. "
    pieces, counts = filtered(sentence * 12, size, check)
    marked = "[person] of [place] has [phone] and [email]. Nothing of Tower Bridge. "
    assert "".join(pieces) == marked * 12
    assert len([piece for piece in pieces if piece]) >= (3 if size < 256 else 1)
    assert {kind for kind, _, _ in counts} == {"presidio"}
    assert sum(ns for _, _, ns in counts) > 0


def test_a_match_at_the_end_of_a_window_is_marked_once():
    check = TextCheck("redact", pii=("phone",))
    for before in range(1_700, 2_030, 11):
        text = "x" * before + f" {PHONE} " + "x" * 2_000
        assert "".join(filtered(text, len(text), check)[0]) == text.replace(PHONE, "[phone]")


@pytest.mark.parametrize(
    ("kind", "text", "is_met"),
    [("phone", "(030) 901820-55", True), ("us_ssn", "457-55-5462", True),
     ("us_ssn", "457555462", False), ("phone", "", False)],
)  # fmt: skip
def test_without_a_model_it_reads_forms_but_believes_no_bare_number(kind, text, is_met):
    assert TextCheck(pii=(kind,)).is_met(text) == is_met


@pytest.mark.parametrize("text", ["a-", "1-", "1 ", "a.a@", "+1 ", "/", "12345678", "aA1:"])
def test_a_long_text_of_what_nearly_matches_is_read_in_time(text):
    kinds = ("phone", "us_ssn", "url", "crypto", "date", "mac_address", "uuid")
    began_s = time.monotonic()
    list(presidio.find(text * (20_000 // len(text)), 0, kinds, ""))
    assert time.monotonic() - began_s < 10, "of the text, in proportion"


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ({"pii": ["emial"]}, "does not find 'emial'"),
        ({"pii": ["email_address"]}, "does not find 'email_address'"),
        ({"pii": ["person"]}, "does not find 'person'"),
        ({"pii": ["person"], "spacy_model": "en_none"}, "en_none cannot be loaded"),
    ],
)
def test_a_kind_or_a_model_that_is_none_is_refused_when_the_server_starts(
    serve_models, fake, inline, check, problem
):
    class Writer(fake):
        outputs = (Field("text", DType.BYTES), Field("chunk", DType.BYTES))

    writer = Writer()
    writer.inputs = (Field("request", DType.BYTES),)
    server = serve_models(("chat", writer, inline))
    chain = read_chain(values_of_keys({"input_checks": [check]}))
    with pytest.raises(Refused, match=problem):
        check_chain(server.models[0], chain, lambda _: None)


def test_a_model_that_is_not_installed_is_refused_where_it_is_set():
    check = {"pii": ["person"], "spacy_model": "en_core_web_lg"}
    with pytest.raises(Invalid, match="install that package"):
        read_chain(values_of_keys({"output_checks": [check]}))
