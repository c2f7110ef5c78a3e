"""Ask the server for ten images."""

import sys

import numpy as np
from sklearn.datasets import load_digits

import bascule


def main(url: str = "http://127.0.0.1:8080") -> None:
    X, y = load_digits(return_X_y=True)
    with bascule.Client(url, model="digits") as client:
        answer = client.predict((X[:10] / 16).astype(np.float32))
    print("said ", *answer["label"])
    print("truth", *y[:10])


if __name__ == "__main__":
    main(*sys.argv[1:])
