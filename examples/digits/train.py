"""Fit and pack a small convolutional network that reads digits."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import bascule

EPOCHS, BATCH_ROWS = 12, 64


class Digits(nn.Module):
    """Ten classes from rows of 64 pixels between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )

    def logits(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels.reshape(-1, 1, 8, 8))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        shares = self.logits(pixels).softmax(1)
        return {"label": shares.argmax(1), "probabilities": shares}


def fit(X: np.ndarray, y: np.ndarray) -> Digits:
    torch.manual_seed(0)
    network = Digits()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    pixels, digits = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(BATCH_ROWS):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network.logits(pixels[rows]), digits[rows]).backward()
            optimiser.step()
    return network.eval()


def main() -> None:
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        (X / 16).astype(np.float32), y, test_size=0.25, random_state=0, stratify=y
    )
    bascule.pack(
        fit(X_train, y_train),
        name="digits",
        train=(X_train, y_train),
        test=(X_test, y_test),
        description="The digit on an image of 8 x 8 pixels.",
        overwrite=True,
        progress=print,
    )


if __name__ == "__main__":
    main()
