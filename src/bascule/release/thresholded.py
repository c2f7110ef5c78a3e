"""A classifier that selects each group of rows over a threshold of its own.

Bundles keep this file as code of their own, so it needs nothing of Bascule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from fairlearn.postprocessing import ThresholdOptimizer
from sklearn.base import BaseEstimator, ClassifierMixin


class ThresholdedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # no types
    """Answers of a fitted classifier of two classes, with equalized odds over groups.

    fairlearn's thresholds (Hardt, Price and Srebro 2016) draw between two answers where scores are
    in between. Here what is drawn follows from the row: it has the same answer each time.
    """

    def __init__(self, model: Any, attribute: str) -> None:
        self.model = model
        self.attribute = attribute

    def fit(self, X: Any, y: Any) -> ThresholdedClassifier:
        """Choose the thresholds; the model stays as it is."""
        self.classes_ = self.model.classes_
        self.feature_names_in_, self.n_features_in_ = np.asarray(X.columns, object), X.shape[1]
        self.optimizer_ = ThresholdOptimizer(
            estimator=self.model, constraints="equalized_odds", prefit=True,
            predict_method="predict_proba",
        )  # fmt: skip
        groups = X[self.attribute]
        self.optimizer_.fit(X, np.asarray(y) == self.classes_[1], sensitive_features=groups)
        return self

    def predict(self, X: Any) -> Any:
        chances = self.optimizer_._pmf_predict(X, sensitive_features=X[self.attribute])[:, 1]
        draws = pd.util.hash_pandas_object(X, index=False).to_numpy() / 2.0**64
        return self.classes_[(draws < chances).astype(int)]
