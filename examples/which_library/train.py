"""Fit and pack a model that says which library a paragraph of documentation is about."""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

import bascule

MODULES = {
    "numpy": ["numpy", "numpy.linalg", "numpy.random", "numpy.fft", "numpy.ma"],
    "pandas": ["pandas", "pandas.api.types", "pandas.tseries.offsets"],
    "scikit-learn": [
        *("sklearn.cluster", "sklearn.decomposition", "sklearn.ensemble", "sklearn.linear_model"),
        *("sklearn.metrics", "sklearn.model_selection", "sklearn.preprocessing", "sklearn.svm"),
    ],
}
GIVEAWAYS = re.compile(r"\b(numpy|np|pandas|pd|scikit[ -]?learn|sklearn)\b", re.IGNORECASE)
MIN_LETTERS = 60


def paragraphs() -> pd.DataFrame:
    """One row a paragraph of prose: its text, its library, and the name it documents."""
    rows = [
        {"text": text, "library": library, "name": f"{module}.{name}"}
        for library, modules in MODULES.items()
        for module in modules
        for name, documentation in documented(module)
        for text in prose(documentation)
    ]
    return pd.DataFrame(rows).drop_duplicates("text").reset_index(drop=True)


def documented(module: str) -> Iterator[tuple[str, str]]:
    """The public names of a module, those of its classes included, with their docstrings."""
    for name, value in sorted(vars(import_module(module)).items()):
        if name.startswith("_") or not callable(value):
            continue
        yield name, inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for part, member in sorted(vars(value).items()):
                if not part.startswith("_") and callable(member):
                    yield f"{name}.{part}", inspect.getdoc(member) or ""


def prose(documentation: str) -> Iterator[str]:
    """Paragraphs without examples, underlines and the names of the libraries."""
    for paragraph in re.split(r"\n\s*\n", documentation):
        if ">>>" in paragraph or "---" in paragraph or ".. " in paragraph:
            continue
        text = " ".join(GIVEAWAYS.sub(" ", paragraph).split())
        if len(text) >= MIN_LETTERS and text.isascii():
            yield text


def main() -> None:
    table = paragraphs()
    splitter = GroupShuffleSplit(1, test_size=0.25, random_state=0)
    past, held_out = next(splitter.split(table, groups=table["name"]))
    X, y = table[["text"]], np.asarray(table["library"], dtype=object)
    model = make_pipeline(
        make_column_transformer((TfidfVectorizer(ngram_range=(1, 2), max_features=8_000), "text")),
        LogisticRegression(C=10, max_iter=500),
    ).fit(X.iloc[past], y[past])
    bascule.pack(
        model,
        name="which-library",
        train=(X.iloc[past], y[past]),
        test=(X.iloc[held_out], y[held_out]),
        description="Which of three Python libraries a paragraph is about.",
        overwrite=True,
        progress=print,
    )


if __name__ == "__main__":
    main()
