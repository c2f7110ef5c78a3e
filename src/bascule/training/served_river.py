"""A model of river as a bundle's own code: copied into the bundle, and run by its environment."""

import pickle
from typing import Any

import numpy as np


class Model:
    """See `bascule.PythonModel`."""

    def load(self, folder: str) -> None:
        with open(f"{folder}/model.pkl", "rb") as file:
            self.model, self.classes = pickle.load(file)

    def predict(self, columns: dict[str, Any]) -> dict[str, Any]:
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        rows = [
            {
                name: own
                for name, own in zip(columns, row, strict=True)
                if own is not None and own == own
            }
            for row in values
        ]
        keys = (False, True) if len(self.classes) == 2 else self.classes
        chances = np.zeros((len(rows), len(keys)))
        for place, row in enumerate(rows):
            found = self.model.predict_proba_one(row)
            chances[place] = [found.get(key, 0.0) for key in keys]
        labels = np.array(self.classes)[chances.argmax(axis=1)]
        return {"label": labels, "probabilities": chances}
