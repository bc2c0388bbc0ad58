"""Makes sgd_trajectory.npz: 20 steps of PyTorch's SGD on a small residual network, by an interpreter that has torch.

    python tests/training/goldens/make_sgd_trajectory.py

Made with torch 2.13.0 on a CPU. Four epochs of five batches of eight images each, Nesterov's momentum, weight decay of
all parameters, cosine annealing epoch by epoch, BatchNorm in training mode, cross-entropy. Images and labels are drawn
by NumPy's frozen legacy generator, and are not stored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

EPOCHS, STEPS, BATCH, SIZE, CLASSES, WIDTH = 4, 5, 8, 28, 3, 4
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 0.01


def examples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images uint8 [n, h, w, 3], labels [n], and the rows of each epoch [epochs, n]."""
    generator = np.random.RandomState(0)
    n = STEPS * BATCH
    images = generator.randint(0, 256, (n, SIZE, SIZE, 3)).astype(np.uint8)
    labels = generator.randint(0, CLASSES, n).astype(np.int32)
    return images, labels, np.stack([generator.permutation(n) for _ in range(EPOCHS)])


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Draws weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Net(nn.Module):
    """Torchvision's ResNet with two blocks."""

    def __init__(self) -> None:
        """Draws weights."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTH)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(WIDTH, WIDTH, 1))
        self.layer2 = nn.Sequential(Block(WIDTH, 2 * WIDTH, 2))
        self.fc = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer2(self.layer1(x)).mean(dim=(2, 3)))


def main() -> None:
    """Trains and writes."""
    torch.manual_seed(0)
    network = Net()
    found = {f"before/{key}": value.numpy().copy() for key, value in network.state_dict().items()}
    images, labels, orders = examples()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.as_tensor(images).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    y = torch.as_tensor(labels).long()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    losses, rates = [], []
    for order in orders:
        rates.append(optimizer.param_groups[0]["lr"])
        for rows in order.reshape(STEPS, BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
    found |= {f"after/{key}": value.numpy() for key, value in network.state_dict().items()}
    found |= {"losses": np.array(losses, np.float32).reshape(EPOCHS, STEPS), "rates": np.array(rates)}
    network.eval()
    with torch.no_grad():
        found["logits"] = network(x).numpy()
    np.savez_compressed(Path(__file__).with_name("sgd_trajectory.npz"), **found)


if __name__ == "__main__":
    main()
