"""Detectors of every kind that is served, fitted and saved with the library."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

DICE = np.random.default_rng(0)
X = DICE.random((200, 3)).astype(np.float32)
SHIFTED = X + np.float32(0.5)
CATEGORIES = DICE.integers(0, 3, (200, 2))
CONTEXTS = X[:, :1].copy()
IMAGES = DICE.random((40, 4, 4, 1)).astype(np.float32)


def save_all(folder: Path) -> None:
    from alibi_detect.saving import save_detector

    for name, detector in fit_all().items():
        save_detector(detector, folder / name)


def fit_all() -> dict[str, Any]:
    import torch
    from alibi_detect import cd, od
    from alibi_detect.cd.pytorch import preprocess_drift
    from alibi_detect.utils.pytorch.kernels import DeepKernel

    torch.manual_seed(0)
    np.random.seed(0)  # the seed that the library's bootstraps use
    reduced = partial(preprocess_drift, model=torch.nn.Linear(3, 2), batch_size=32)
    kernel = DeepKernel(torch.nn.Sequential(torch.nn.Linear(3, 2)), eps=0.01)
    forest = od.IForest(n_estimators=20)
    forest.fit(X)
    forest.infer_threshold(X, threshold_perc=95)
    return {
        "ks": cd.KSDrift(X),
        "column": cd.KSDrift(X[:, 0]),
        "images": cd.KSDrift(IMAGES),
        "reduced": cd.KSDrift(X, preprocess_fn=reduced),
        "categories": cd.ChiSquareDrift(CATEGORIES),
        "tabular": cd.TabularDrift(X),
        "mmd": cd.MMDDrift(X, backend="pytorch", n_permutations=20),
        "context": cd.ContextMMDDrift(X, CONTEXTS, backend="pytorch", n_permutations=20),
        "context_tensorflow": cd.ContextMMDDrift(X, CONTEXTS, backend="tensorflow", n_permutations=20),
        "learned": cd.LearnedKernelDrift(X, kernel, backend="pytorch", epochs=2, n_permutations=20),
        "cvm_online": cd.CVMDriftOnline(X, ert=50.0, window_sizes=[10], n_bootstraps=200, verbose=False),
        "mmd_online": cd.MMDDriftOnline(
            X, ert=50.0, window_size=10, backend="pytorch", n_bootstraps=200, verbose=False
        ),
        "forest": forest,
        "mahalanobis": od.Mahalanobis(threshold=5.0),
        "unfinished": od.Mahalanobis(),
        "spectrum": od.SpectralResidual(threshold=3.0, window_amp=10, window_local=10, n_est_points=5),
    }
