"""transformers: text pipelines, asked one text after the other, as their users do."""

from __future__ import annotations

import numpy as np
from conformance_sample import Sample
from tests.tiny_pipelines import TEXTS, pipeline


def classifier() -> Sample:
    pipe = pipeline()

    def ask(rows):
        answers = [pipe(text, top_k=None) for text in rows]
        best = [answer[0]["label"] for answer in answers]
        scores = [{each["label"]: each["score"] for each in answer} for answer in answers]
        shares = [[of[label] for label in ("early", "late", "never")] for of in scores]
        return {"label": np.array(best, object), "probabilities": np.array(shares)}

    return _sample(pipe, ask)


def extractor() -> Sample:
    pipe = pipeline("feature-extraction")

    def ask(rows):
        return {"embedding": np.array([np.mean(pipe(text)[0], axis=0) for text in rows])}

    return _sample(pipe, ask)


def _sample(pipe, ask):
    """The same weights in other memory: sums of floats may be in another order."""
    within = {"within": 1e-6, "saved_within": 1e-6}
    return Sample(pipe, TEXTS[:20], TEXTS[20:], ask, serves="original", **within)


SAMPLES = {"classifier": classifier, "extractor": extractor}
