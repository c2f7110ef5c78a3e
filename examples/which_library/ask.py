"""Ask the server about three sentences."""

import sys

import bascule

TEXTS = [
    "Fit the estimator on the training samples and predict the class of each sample.",
    "Return a DataFrame with the rows grouped by the values of a column of the index.",
    "Return a new array of given shape and type, filled with ones along the given axis.",
]


def main(url: str = "http://127.0.0.1:8080") -> None:
    with bascule.Client(url, model="which-library") as client:
        answer = client.predict({"text": TEXTS})
    for text, label, shares in zip(TEXTS, answer["label"], answer["probabilities"], strict=True):
        print(f"{label:13} {max(shares):.2f}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
