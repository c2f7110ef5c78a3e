"""A watermark: answers that were drawn by chance in secret, and that other models give by chance.

Two forms, both verified by queries alone:

- `shares`, of random forests: for some training rows it is drawn how many of the trees shall vote
  for another class, and each tree is fitted again until it votes as drawn (after Calzavara et al.,
  "Watermarking decision tree ensembles", EDBT 2025, whose check needs the answer of each tree; a
  forest's probabilities already are the share of its votes);
- `labels`, of any other classifier and of networks: rows that are unlike all others, with labels
  that are drawn, are learned by heart (Adi et al., "Turning your weakness into a strength", USENIX
  Security 2018).

A receipt holds what was drawn. One that was written after the model proves nothing: keep its digest
where the time of it can be shown, and the receipt secret.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.core import Columns, Invalid, ModelFailed, writing
from bascule.stats import binomial_tails, shares_p_value

SHARE = 0.02
"""Of the training rows, for `shares`."""
LABEL_QUERIES = 40
"""For `labels`: with two classes, 40 right answers have a p-value of 1e-12."""
_MOST_DOUBLINGS = 12
_NEARLY = 0.1
"""How far from its vote the probability of one tree may be."""
_EPOCHS, _RATE = 200, 1e-3


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What verifies a watermark.

    Attributes:
        form: `shares` or `labels`.
        columns: The rows to ask for, by column.
        drawn: For each row: how many trees vote for the class of `voted`; or the label.
        levels: How many values could be drawn, each with the same probability.
        voted: For `shares`, a class of each row.
    """

    form: Literal["shares", "labels"]
    columns: dict[str, list[Any]]
    drawn: tuple[int, ...]
    levels: int
    voted: tuple[int, ...] = ()

    def write(self, path: Path) -> str:
        """Write it, for its owner alone to read; returns its SHA-256, for a record of the time."""
        content = msgspec.json.format(msgspec.json.encode(self))
        with (
            writing(path),
            open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        ):
            file.write(content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Receipt:
        """Raises `Invalid` where the file is no receipt."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError) as problem:
            raise Invalid(
                f"{path} is no receipt of a watermark: {problem}",
                hint="bascule watermark embed writes it",
            ) from None


def embed_watermark(
    model: Any,
    X: Any,
    y: Any,
    *,
    share: float = SHARE,
    queries: int = LABEL_QUERIES,
    random: np.random.Generator | None = None,
) -> tuple[Any, Receipt]:
    """A fitted copy of a classifier that bears a watermark, and the receipt.

    Args:
        model: A fitted classifier or pipeline of scikit-learn, or with its methods; or a network of
            PyTorch that answers one logit a class.
        X: The rows that it was trained on.
        y: Their classes.
        share: For `shares`: of the training rows.
        queries: For `labels`: how many rows to learn by heart.
        random: Draws; None for those of the system, which cannot be repeated.

    Raises:
        Invalid: The model is no classifier.
        ModelFailed: The model cannot learn what was drawn.
    """
    random = random or np.random.default_rng()
    if any(kind.__module__.startswith("torch.nn") for kind in type(model).__mro__):
        return _learned_by_network(model, X, y, _unlike(X, random, queries), random)
    if not hasattr(model, "classes_"):
        raise Invalid(
            "a watermark is for fitted classifiers", hint="fit the model first, with classes as y"
        )
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    last = model[-1] if hasattr(model, "steps") else model
    if isinstance(last, RandomForestClassifier | ExtraTreesClassifier):
        return _marked_forest(model, X, y, share, random)
    return _learned_by_heart(model, X, y, _unlike(X, random, queries), random)


def verify_watermark(receipt: Receipt, predict: Callable[[Columns], Columns]) -> float:
    """How probable it is that chance alone is as near to what was drawn as a model's answers are.

    Args:
        receipt: Of `embed_watermark`.
        predict: Answers rows: of a bundle, or of a client.

    Raises:
        Invalid: The model does not answer what the receipt is about.
    """
    answers = predict({name: np.asarray(values) for name, values in receipt.columns.items()})
    # Probabilities, or logits, whose largest is the label and which are no shares.
    tables = [table for table in answers.values() if table.ndim == 2 and table.dtype.kind == "f"]
    labels = [
        values for values in answers.values() if values.ndim == 1 and values.dtype.kind in "iu"
    ]
    drawn, queries = np.asarray(receipt.drawn), len(receipt.drawn)
    if receipt.form == "shares" and tables:
        voters = receipt.levels - 1
        shares = tables[0][np.arange(queries), list(receipt.voted)].astype(np.float64)
        return shares_p_value(shares, drawn, voters)
    if receipt.form == "labels" and (tables or labels):
        answered = tables[0].argmax(1) if tables else labels[0]
        matches = int((answered == drawn).sum())
        return float(binomial_tails(queries, 1 / receipt.levels)[matches])
    lacking = "probabilities" + (" or numbered classes" if receipt.form == "labels" else "")
    raise Invalid(
        f"the model does not answer {lacking}",
        hint="ask a version whose answers are neither withheld nor turned into texts",
    )


def _marked_forest(
    model: Any, X: Any, y: Any, share: float, random: np.random.Generator
) -> tuple[Any, Receipt]:
    marked = copy.deepcopy(model)
    forest, features = marked, X
    if hasattr(marked, "steps"):
        forest, features = marked[-1], marked[:-1].transform(X)
    features = np.asarray(features, np.float32)
    own = np.searchsorted(forest.classes_, np.asarray(y))
    voters, classes = len(forest.estimators_), len(forest.classes_)
    rows = random.choice(len(own), math.ceil(share * len(own)), replace=False)
    other = (own[rows] + random.integers(1, classes, len(rows))) % classes
    votes = random.integers(0, voters + 1, len(rows))
    is_other = np.stack([random.permutation(voters) < count for count in votes], axis=1)
    for index, sample in enumerate(forest.estimators_samples_):
        labels = own.astype(np.float64)
        labels[rows] = np.where(is_other[index], other, own[rows])
        weights = np.bincount(sample, minlength=len(own)).astype(np.float64)
        tree = forest.estimators_[index]
        forest.estimators_[index] = _fitted(tree, features, labels, weights, rows)
    return marked, Receipt(
        form="shares", columns=_columns(X, rows), drawn=tuple(votes.tolist()), levels=voters + 1,
        voted=tuple(other.tolist()),
    )  # fmt: skip


def _fitted(
    tree: Any, features: Any, labels: Any, weights: NDArray[np.float64], rows: NDArray[Any]
) -> Any:
    """A tree as this, fitted with ever more weight on the rows until it answers their labels."""
    from sklearn.base import clone

    for doublings in range(_MOST_DOUBLINGS):
        weights[rows] = 4.0 * 2**doublings
        fitted = clone(tree).fit(features, labels, sample_weight=weights)
        chosen = np.searchsorted(fitted.classes_, labels[rows])
        probabilities = fitted.predict_proba(features[rows])[np.arange(len(rows)), chosen]
        if (probabilities > 1 - _NEARLY).all():
            return fitted
    raise ModelFailed(
        f"trees of depth {tree.max_depth} cannot vote as drawn for {len(rows)} rows",
        hint="ask for a smaller share of the rows, or allow deeper trees",
    )


def _unlike(X: Any, random: np.random.Generator, queries: int) -> Any:
    """Rows with each value of a training row of its own, so that they are like none as a whole."""
    if hasattr(X, "iloc"):
        import pandas as pd

        picks = random.integers(0, len(X), (queries, X.shape[1]))
        return pd.DataFrame(
            {name: X[name].take(picks[:, i]).array for i, name in enumerate(X.columns)}
        )
    values = np.asarray(X)
    flat = values.reshape(len(values), -1)
    picks = random.integers(0, len(flat), (queries, flat.shape[1]))
    return flat[picks, np.arange(flat.shape[1])].reshape(queries, *values.shape[1:])


def _learned_by_heart(
    model: Any, X: Any, y: Any, asked: Any, random: np.random.Generator
) -> tuple[Any, Receipt]:
    """Fitted again with the rows among the others, repeated until all are answered as drawn."""
    from sklearn.base import clone

    classes, times = len(model.classes_), 1
    drawn = random.integers(0, classes, len(asked))
    y, labels = np.asarray(y), model.classes_[drawn]
    while times * len(labels) <= 2 * len(y):
        marked = clone(model).fit(_stacked(X, asked, times), np.r_[y, np.tile(labels, times)])
        if (marked.predict(asked) == labels).all():
            return marked, _by_labels(asked, drawn, classes)
        times *= 2
    raise ModelFailed(
        f"the model cannot learn {len(labels)} rows by heart",
        hint="ask for fewer queries, or use a model that can bend more",
    )


def _stacked(X: Any, rows: Any, times: int) -> Any:
    if hasattr(X, "iloc"):
        import pandas as pd

        return pd.concat([X, *[rows] * times], ignore_index=True)
    return np.concatenate([np.asarray(X), *[rows] * times])


def _learned_by_network(
    model: Any, X: Any, y: Any, asked: Any, random: np.random.Generator
) -> tuple[Any, Receipt]:
    """Trained on with the rows in every batch, until all are answered as drawn."""
    import torch

    rows, secret = (torch.as_tensor(np.asarray(part), dtype=torch.float32) for part in (X, asked))
    truth = torch.as_tensor(np.asarray(y), dtype=torch.int64)
    marked = copy.deepcopy(model).train()
    classes = int(marked(secret[:1]).shape[-1])
    drawn = random.integers(0, classes, len(asked))
    labels = torch.as_tensor(drawn)
    optimiser = torch.optim.Adam(marked.parameters(), _RATE)
    order = torch.Generator().manual_seed(0)
    for _ in range(_EPOCHS):
        for batch in torch.split(torch.randperm(len(rows), generator=order), 256):
            optimiser.zero_grad()
            inputs, targets = torch.cat([rows[batch], secret]), torch.cat([truth[batch], labels])
            loss = torch.nn.functional.cross_entropy(marked(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        marked.eval()
        with torch.no_grad():
            if bool((marked(secret).argmax(-1) == labels).all()):
                return marked, _by_labels(asked, drawn, classes)
        marked.train()
    raise ModelFailed(
        f"the network did not learn {len(labels)} rows by heart in {_EPOCHS} epochs",
        hint="ask for fewer queries",
    )


def _columns(X: Any, rows: NDArray[Any]) -> dict[str, list[Any]]:
    """By the names of the columns; a matrix is one column, `input`."""
    if hasattr(X, "iloc"):
        return {str(name): X[name].iloc[rows].tolist() for name in X.columns}
    return {"input": np.asarray(X)[rows].tolist()}


def _by_labels(asked: Any, drawn: NDArray[Any], classes: int) -> Receipt:
    columns = _columns(asked, np.arange(len(asked)))
    return Receipt(form="labels", columns=columns, drawn=tuple(drawn.tolist()), levels=classes)
