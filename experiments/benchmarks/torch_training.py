"""What a PyTorch user writes for the suite `training`. Run by the user's interpreter, with torch alone.

    <python> experiments/benchmarks/torch_training.py <seconds> contiguous|channels_last <threads> <size>x<batch> ...

Prints one line of JSON for each: the seconds of a training step of ResNet-18, from bytes in memory: batches are taken
by row numbers, normalised, and passed through the network, dropout and a linear head; SGD with Nesterov's momentum and
weight decay. 0 threads are as many as PyTorch takes by itself. Runs on a GPU where torch sees one, with the precision
that torch and JAX both take there by themselves for convolutions (TF32). Needs nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch_peer import DEVICE, ResNet18, finished  # beside this file

IMAGES, CLASSES = 512, 10


def main(size: int, batch: int, seconds: float, channels_last: bool) -> None:
    """Measures one cell and prints it."""
    torch.manual_seed(0)
    form = torch.channels_last if channels_last else torch.contiguous_format
    network = nn.Sequential(ResNet18(), nn.Dropout(0.5), nn.Linear(512, CLASSES)).train().to(DEVICE, memory_format=form)
    generator = np.random.default_rng(0)
    images = torch.as_tensor(generator.integers(0, 256, (IMAGES, 3, size, size)).astype(np.uint8), device=DEVICE)
    labels = torch.as_tensor(np.arange(IMAGES) % CLASSES, device=DEVICE)
    mean = torch.tensor([0.485, 0.456, 0.406], device=DEVICE)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device=DEVICE)[:, None, None]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
    loss_of = nn.CrossEntropyLoss()

    def step() -> float:
        rows = torch.as_tensor(generator.permutation(IMAGES)[:batch], device=DEVICE)
        inputs = ((images[rows].float() / 255 - mean) / std).contiguous(memory_format=form)
        optimizer.zero_grad()
        loss = loss_of(network(inputs), labels[rows])
        loss.backward()
        optimizer.step()
        return loss.item()

    begun = time.perf_counter()
    step()
    finished()
    first = time.perf_counter() - begun
    times: list[list[float]] = []
    begun = time.perf_counter()
    while len(times) < 2 or (len(times) < 30 and time.perf_counter() - begun < seconds):
        start, used = time.perf_counter(), time.process_time()
        step()
        times.append([time.perf_counter() - start, time.process_time() - used])
    wall, processor = np.median(times, axis=0).tolist()
    found = {"first": first, "seconds": wall, "processor": processor, "version": torch.__version__}
    print(json.dumps(found | {"threads": torch.get_num_threads()}), flush=True)


if __name__ == "__main__":
    if threads := int(sys.argv[3]):
        torch.set_num_threads(threads)
    for shape in sys.argv[4:]:
        pixels, _, count = shape.partition("x")
        main(int(pixels), int(count), float(sys.argv[1]), sys.argv[2] == "channels_last")
