"""The network: the same class trains and serves."""

import torch
from torch import nn


class Digits(nn.Module):
    """One hidden layer over images of 8 x 8 pixels of 0 to 16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, width)
        self.scores = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.scores(torch.relu(self.hidden(image / 16)))
        return {"label": scores.argmax(1), "scores": scores}
