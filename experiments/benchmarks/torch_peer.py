"""What a PyTorch user writes for the suites `gradients` and `cell`. Run by the user's interpreter, with torch alone.

    <python> experiments/benchmarks/torch_peer.py <seconds> contiguous|channels_last <variant>:<size>x<batch> ...

Prints one line of JSON for each, one after the other. Needs nothing of this project: the network is torchvision's
ResNet-18, written out. The variant `cell` needs scikit-learn and SciPy too. Runs on a GPU where torch sees one, there
in full float32 as ours does (by itself torch would let convolutions round to TF32).
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

MARGIN = 0.05
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def finished() -> None:
    """Waits until the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Draws weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Without its head: images [b, 3, h, w] → features [b, 512]."""

    def __init__(self) -> None:
        """Draws weights, by the fan-out."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
        blocks = [
            Block(widths[i], widths[i + 1], 2 if widths[i] != widths[i + 1] else 1) for i in range(len(widths) - 1)
        ]
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the features."""
        return self.blocks(self.pool(torch.relu(self.bn1(self.conv1(x))))).mean(dim=(2, 3))


def triplet_loss(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the triples of a batch whose loss is above zero."""
    unit = nn.functional.normalize(features)
    distances = torch.cdist(unit, unit)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    losses = distances[:, :, None] - distances[:, None, :] + MARGIN
    losses = torch.where(positive[:, :, None] & ~same[:, None, :], losses, 0).clamp(min=0)
    return losses.sum() / (losses > 0).sum().clamp(min=1)


def kernels(network: ResNet18) -> list[torch.Tensor]:
    """Returns the first two convolutions' kernels, and freezes all others."""
    chosen = [network.conv1.weight, network.blocks[0].conv1.weight]  # type: ignore[union-attr]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for kernel in chosen:
        kernel.requires_grad_(True)
    return chosen


def variants(network: ResNet18, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Returns what can be measured, by name; each is prepared when it is called first."""

    def forward() -> object:
        with torch.inference_mode():
            return network(images)

    def two() -> object:
        gradients = torch.autograd.grad(triplet_loss(network(images), labels), kernels(network))
        return [gradient.norm() for gradient in gradients]

    def everything() -> object:
        return torch.autograd.grad(triplet_loss(network(images), labels), list(network.parameters()))

    def hooks() -> object:
        """Inputs and output gradients of the two convolutions; unfold and a product, an example at a time."""
        kernels(network)
        layers = (network.conv1, network.blocks[0].conv1)
        seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

        def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen[layer] = (inputs[0].detach(), output)

        handles = [layer.register_forward_hook(record) for layer in layers]  # type: ignore[union-attr]
        loss = triplet_loss(network(images), labels)
        pulls = torch.autograd.grad(loss, [seen[layer][1] for layer in layers])  # type: ignore[index]
        for handle in handles:
            handle.remove()
        found = []
        for layer, pull in zip(layers, pulls, strict=True):
            unfold = functools.partial(
                nn.functional.unfold, kernel_size=layer.kernel_size, padding=layer.padding, stride=layer.stride
            )
            inputs = seen[layer][0]  # type: ignore[index]
            norms = [
                torch.einsum("kp,op->ko", unfold(inputs[i : i + 1])[0], pull[i].flatten(1)).norm()
                for i in range(len(inputs))
            ]
            found.append(torch.stack(norms))
        return found

    def by_vmap(every: bool) -> object:
        from torch.func import functional_call, grad, vmap

        names = ("conv1.weight", "blocks.0.conv1.weight")
        params = {name: parameter.detach() for name, parameter in network.named_parameters()}
        chosen = params if every else {name: params[name] for name in names}
        rest = {name: params[name] for name in params if name not in chosen} | dict(network.named_buffers())
        with torch.no_grad():
            features = network(images)
        features = features.detach().requires_grad_(True)
        pulls = torch.autograd.grad(triplet_loss(features, labels), features)[0]

        def pulled(chosen: dict[str, torch.Tensor], image: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
            return (functional_call(network, {**rest, **chosen}, (image[None],))[0] * pull).sum()

        shares = vmap(grad(pulled), in_dims=(None, 0, 0))(chosen, images, pulls)
        return [shares[name].flatten(1).norm(dim=1) for name in names]

    return {
        "forward": forward,
        "two": two,
        "all": everything,
        "hooks": hooks,
        "vmap_two": functools.partial(by_vmap, False),
        "vmap_all": functools.partial(by_vmap, True),
    }


def cell(network: ResNet18, images: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """Scores a source as the published code does: features, then gradients of everything, then scikit-learn."""
    from scipy.special import softmax
    from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors, NeighborhoodComponentsAnalysis

    head = nn.Linear(512, 1000).to(DEVICE)
    features, batch = [], len(images) // 6
    with torch.no_grad():
        for start in range(0, len(images), batch):
            features.append(network(images[start : start + batch]))
        logits = head(torch.cat(features)).cpu().numpy()
    x = torch.cat(features).cpu().numpy()
    norms = np.zeros(2)
    classes = torch.as_tensor(labels, device=DEVICE)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for start in range(0, len(images), batch):
        network.zero_grad()
        triplet_loss(network(images[start : start + batch]), classes[start : start + batch]).backward()
        layers = (network.conv1, network.blocks[0].conv1)
        norms += [float(layer.weight.grad.norm()) for layer in layers]  # type: ignore[union-attr]
    nca = NeighborhoodComponentsAnalysis(50, init="pca", max_iter=50, tol=1e-5, random_state=0)
    mapped = nca.fit_transform(x, labels)
    shares = KNeighborsClassifier(5).fit(mapped, labels).predict_proba(mapped)
    found = NearestNeighbors(n_neighbors=5).fit(x).kneighbors(return_distance=False)
    theta = softmax(logits, axis=1)
    joint = np.eye(labels.max() + 1)[labels].T @ theta
    return {
        "feature_quality": float(shares[np.arange(len(x)), labels].mean()),
        "gradient_ratio": float(norms[1] / norms[0]),
        "knn": float((labels[found] == labels[:, None]).mean()),
        "leep": float(np.mean(np.log(((joint / joint.sum(axis=0))[labels] * theta).sum(axis=1)))),
        "logme": logme(x, labels),
    }


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """By way of XᵀX, class by class, as its authors publish it."""
    f = features.astype(np.float64)
    n, d = f.shape
    _, s, vh = np.linalg.svd(f.T @ f)
    s = np.sqrt(s[s > 1e-20])
    u, sigma, evidences = (f @ vh[: len(s)].T) / s, s**2, []
    for c in range(labels.max() + 1):
        y = (labels == c).astype(np.float64)
        x2 = (u.T @ y) ** 2
        outside = y @ y - x2.sum()
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * x2 / (t + sigma) ** 2).sum()
            res2 = (x2 / (1 + sigma / t) ** 2).sum() + outside
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (res2 + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidence = d / 2 * np.log(alpha) + n / 2 * np.log(beta) - 0.5 * np.log(alpha + beta * sigma).sum()
        evidences.append((evidence - beta / 2 * res2 - alpha / 2 * m2 - n / 2 * np.log(2 * np.pi)) / n)
    return float(np.mean(evidences))


def main(variant: str, size: int, batch: int, seconds: float, channels_last: bool) -> None:
    """Measures one variant and prints it."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    form = torch.channels_last if channels_last else torch.contiguous_format
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network = ResNet18().eval().to(DEVICE, memory_format=form)
    generator = np.random.default_rng(0)
    drawn = torch.as_tensor(generator.standard_normal((batch, 3, size, size), np.float32))
    images = drawn.to(DEVICE).contiguous(memory_format=form)
    labels = np.arange(batch) % 5
    values: object = None
    if variant == "cell":
        labels = np.arange(batch) % 11
        offsets = 0.1 * generator.standard_normal((11, 3, 1, 1)).astype(np.float32)[labels]
        images += torch.as_tensor(offsets, device=DEVICE)
        run: Callable[[], object] = functools.partial(cell, network, images, labels)
    else:
        run = variants(network, images, torch.as_tensor(labels, device=DEVICE))[variant]
    start = time.perf_counter()
    values = run()
    finished()
    first = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < 20 and time.perf_counter() - start < seconds):
        began = time.perf_counter()
        run()
        finished()
        times.append(time.perf_counter() - began)
    print(
        json.dumps(
            {
                "first": first,
                "seconds": float(np.median(times)),
                "resident": 1024 * before,
                "version": torch.__version__,
                "threads": torch.get_num_threads(),
                "values": values if variant == "cell" else None,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    for text in sys.argv[3:]:
        name, _, shape = text.partition(":")
        pixels, _, count = shape.partition("x")
        main(name, int(pixels), int(count), float(sys.argv[1]), sys.argv[2] == "channels_last")
