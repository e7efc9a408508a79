"""Detectors that TensorFlow computes with: run as a script, it fits them, saves them, and asks them.

Which Keras that is, 2 or 3, is settled for a process by its environment: `TF_USE_LEGACY_KERAS`. What Keras 3
has no format for is left out with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from detectors import SHIFTED, X

ASKED = np.concatenate([X[:20], SHIFTED[:5] * 20])
ANSWERS = "answers.npz"


def fit_all() -> dict[str, Any]:
    import tensorflow as tf
    from alibi_detect import ad, cd
    from alibi_detect.utils.tensorflow.kernels import DeepKernel

    tf.keras.utils.set_random_seed(0)
    dense, given, stacked = tf.keras.layers.Dense, tf.keras.Input, tf.keras.Sequential

    def classifier() -> Any:
        return stacked([given((3,)), dense(4, activation="relu"), dense(2, activation="softmax")])

    def autoencoder(**options: Any) -> Any:
        encoder, decoder = stacked([given((3,)), dense(2)]), stacked([given((2,)), dense(3)])
        return ad.AdversarialAE(encoder_net=encoder, decoder_net=decoder, model=classifier(), **options)

    adversarial = {"distilled": ad.ModelDistillation(distilled_model=classifier(), model=classifier())}
    if os.environ.get("TF_USE_LEGACY_KERAS") == "1":
        adversarial["autoencoder"] = autoencoder()
        adversarial["hidden"] = autoencoder(hidden_layer_kld={0: 2}, w_model_hl=[1.0])
    for detector in adversarial.values():
        detector.fit(X, epochs=1, verbose=False)
        detector.infer_threshold(X, threshold_perc=95)
    kernel = DeepKernel(stacked([given((3,)), dense(2)]), eps=0.01)
    learned = cd.LearnedKernelDrift(X, kernel, backend="tensorflow", epochs=2, n_permutations=20)
    return {**adversarial, "learned": learned}


def main(folder: Path) -> None:
    from alibi_detect.saving import load_detector, save_detector

    answers = {}
    for name, detector in fit_all().items():
        save_detector(detector, folder / name)
        if name != "learned":  # which learns another kernel each time
            data = load_detector(folder / name).predict(ASKED)["data"]
            answers.update({f"{name}.{key}": value for key, value in data.items()})
    np.savez(folder / ANSWERS, **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
