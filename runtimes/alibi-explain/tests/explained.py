"""Models of every kind that is explained, and a saved explainer for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

X, Y = load_iris(return_X_y=True)
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
TEXTS = ["a good film", "such a good play", "good", "a bad film", "such a bad play", "bad"] * 5
IMAGES = np.random.default_rng(0).random((20, 8, 8, 1)).astype(np.float32)

# Says whether the left half of an image is brighter than the right one.
HALVES = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Halves(MLModel):
    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0])
        left, right = images[:, :, :4].mean(axis=(1, 2, 3)), images[:, :, 4:].mean(axis=(1, 2, 3))
        brighter = NumpyCodec.encode_output("brighter", (left > right).astype(np.int64))
        return InferenceResponse(model_name=self.name, outputs=[brighter])
"""


def train() -> dict[str, Any]:
    """Models by name: those of scikit-learn."""
    return {
        "linear": LogisticRegression(max_iter=500).fit(X, Y),
        "texts": make_pipeline(CountVectorizer(), LogisticRegression()).fit(
            TEXTS, ["good" in text for text in TEXTS]
        ),
        "forest": RandomForestClassifier(10, random_state=0).fit(X, Y),
        "boosted": GradientBoostingClassifier(n_estimators=5, random_state=0).fit(X, Y),
    }


def keras_model() -> Any:
    import tensorflow as tf

    layers = [
        tf.keras.layers.Input((4,)),
        tf.keras.layers.Dense(8, activation="relu"),
        tf.keras.layers.Dense(3, activation="softmax"),
    ]
    tf.keras.utils.set_random_seed(0)
    return tf.keras.Sequential(layers)


def save_all(folder: Path) -> None:
    import spacy
    import xgboost as xgb
    from alibi import explainers as kinds

    models = train()
    home = folder / "models"
    home.mkdir()
    for name, model in models.items():
        joblib.dump(model, home / f"{name}.joblib")
    xgb.XGBClassifier(n_estimators=5).fit(X, Y).save_model(home / "xgboost.ubj")
    net = keras_model()
    net.save(home / "net.keras")

    linear = models["linear"]
    made = {
        "anchor_tabular": kinds.AnchorTabular(linear.predict, NAMES, seed=1).fit(X),
        "kernel_shap": kinds.KernelShap(linear.predict_proba, feature_names=NAMES).fit(X[::10]),
        "anchor_text": kinds.AnchorText(
            lambda texts: models["texts"].predict(list(texts)).astype(int), nlp=spacy.blank("en")
        ),
        "anchor_image": kinds.AnchorImage(lambda x: np.zeros(len(x), int), IMAGES[0].shape, seed=1),
        "tree_shap": kinds.TreeShap(models["forest"], feature_names=NAMES).fit(),
        "tree_partial_dependence": kinds.TreePartialDependence(models["boosted"], feature_names=NAMES),
        "integrated_gradients": kinds.IntegratedGradients(net),
        "unfitted": kinds.AnchorTabular(linear.predict, NAMES),
    }
    for name, explainer in made.items():
        explainer.save(folder / name)
