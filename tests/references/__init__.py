"""Naive float64 NumPy versions of the metrics, written from the definitions in their papers.

Loops where the definition has a sum, no JAX, nothing shared with the package: what the kernels are compared with.
Slow on purpose; hand them tens to a few hundred examples.
"""
