"""PACTran-Gaussian.

References:
  Ding, Chen, Levinboim, Changpinyo and Soricut (2022), "PACTran: PAC-Bayesian Metrics for Estimating the
  Transferability of Pretrained Models to Classification Tasks", ECCV, https://arxiv.org/abs/2203.05126.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, special


def pactran_gauss(
    features: np.ndarray, labels: np.ndarray, *, lda_factor: float = 0.1, s2_factor: float = 1.0, start: int = 0
) -> float:
    """Returns minus (loss of the best linear classifier + flatness of its minimum); `start` seeds where it begins."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    classes, y = np.unique(labels, return_inverse=True)
    n, d, c = *x.shape, len(classes)
    lambda_variance = lda_factor * n
    targets = np.eye(c)[y]

    def loss_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = theta[: d * c].reshape(d, c), theta[d * c :]
        logits = x @ weights + biases
        loss = -(targets * special.log_softmax(logits, axis=1)).sum() / n + (weights**2).sum() / (2 * lambda_variance)
        away = (special.softmax(logits, axis=1) - targets) / n
        return loss, np.concatenate([(x.T @ away + weights / lambda_variance).ravel(), away.sum(axis=0)])

    theta = 0.03 * np.random.default_rng(start).standard_normal((d + 1) * c)
    options = {"maxiter": 100_000, "maxfun": 1_000_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 50}
    for _ in range(3):  # begun anew, it goes on where rounding had ended a line search
        found = optimize.minimize(loss_and_gradient, theta, jac=True, method="L-BFGS-B", options=options)
        theta = found.x
    logits = x @ theta[: d * c].reshape(d, c) + theta[d * c :]
    shares = special.softmax(logits, axis=1)
    trace = 0.0
    for i in range(n):
        for k in range(c):
            for value in [*x[i], 1.0]:
                trace += value**2 * shares[i, k] * (1 - shares[i, k]) / n
    inverse = 1 + lambda_variance * trace / (d * c)
    return -float(found.fun + d * c / lambda_variance * (s2_factor / d) / 2 * np.log(inverse))
