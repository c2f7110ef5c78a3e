"""Personal data that takes judgement (phones, names, places), found by Presidio.

It sees a text in windows, as some of its patterns take time in the square of a text. Nothing is
fetched over the network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from bascule.bundle.originals import installed_version
from bascule.core import MissingExtra, Refused, library

_ENTITIES = {"phone": "PHONE_NUMBER", "place": "LOCATION", "date": "DATE_TIME"}
"""Of our names, those that are not Presidio's in lower case."""
_LEAST_SCORE = 0.4
"""Lower are bare numbers, as of passports, that only words around them make likely."""
_WINDOW, _OVERLAP = 2_000, 256


def check_installed(kinds: Sequence[str], spacy_model: str) -> None:
    """Raise `MissingExtra`, or `ValueError` of the model, for what is not; imports nothing."""
    if installed_version("presidio-analyzer") == "none":
        what = f"pii: {', '.join(kinds)} takes presidio-analyzer, which is not installed"
        raise MissingExtra(what, hint="pip install 'bascule[pii]', or leave that out")
    if spacy_model and installed_version(spacy_model) == "none":
        raise ValueError(f"spacy_model: {spacy_model} is not installed; install that package")


def load(kinds: Sequence[str], spacy_model: str) -> None:
    """Take the seconds of loading; raises `Refused` for a model that is none and unknown kinds."""
    try:
        engine, language = _engine(spacy_model)
    except Exception as problem:  # of the code in the model's package
        what = f"spacy_model: {spacy_model}" if spacy_model else "pii: Presidio"
        hint = "install a model that fits the version of spaCy"
        raise Refused(f"{what} cannot be loaded: {problem}", hint=hint) from None
    known = engine.get_supported_entities(language)
    if unknown := [kind for kind in kinds if _entity(kind) not in known]:
        hint = f"email, iban, card, ip, {', '.join(sorted(known)).lower()}; names by a spacy_model"
        raise Refused(f"pii: Presidio does not find {unknown[0]!r} here", hint=hint)


def find(
    text: str, start: int, kinds: Sequence[str], spacy_model: str
) -> Iterator[tuple[int, int, str]]:
    """Where data of the kinds that begins at `start` or later begins and ends, and its mark."""
    engine, language = _engine(spacy_model)
    marks = {_entity(kind): f"[{kind}]" for kind in kinds}
    for at in range(0, max(len(text) - _OVERLAP, 1), _WINDOW - _OVERLAP):
        window, is_last = text[at : at + _WINDOW], at + _WINDOW >= len(text)
        for match in engine.analyze(window, language, [*marks], score_threshold=_LEAST_SCORE):
            # What ends with a window, the next one has whole.
            if at + match.start >= start and (match.end < _WINDOW or is_last):
                yield at + match.start, at + match.end, marks[match.entity_type]


def _entity(kind: str) -> str:
    return _ENTITIES.get(kind, kind.upper())


@lru_cache(maxsize=8)
def _engine(spacy_model: str) -> tuple[Any, str]:
    """An `AnalyzerEngine`, and the language of its model; English without one."""
    presidio = library("presidio_analyzer", "pii")
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns at every text
    language = spacy_model.partition("_")[0] or "en"
    model = {"lang_code": language, "model_name": spacy_model or "no_op"}
    using = {"nlp_engine_name": "spacy" if spacy_model else "no_op", "models": [model]}
    nlp = presidio.nlp_engine.NlpEngineProvider(nlp_configuration=using).create_engine()
    registry = presidio.RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=nlp)
    registry.remove_recognizer("EmailRecognizer")  # it fetches a list of domains
    return presidio.AnalyzerEngine(registry, nlp, supported_languages=[language]), language
