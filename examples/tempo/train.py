"""A classifier of flowers, a detector of outliers, and a pipeline of Tempo that lets no outliers through."""

import joblib
import numpy as np
import tempo
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tempo.serve.metadata import DockerOptions, ModelFramework
from tempo.serve.model import Model
from tempo.serve.pipeline import PipelineModels
from tempo.serve.utils import pipeline

measures, kinds = load_iris(return_X_y=True)
train, test, train_kinds, test_kinds = train_test_split(measures, kinds, random_state=0)
classifier = LogisticRegression(max_iter=500).fit(train, train_kinds)
print(f"accuracy on unseen flowers: {classifier.score(test, test_kinds):.2f}")
joblib.dump(classifier, "flower/model.joblib")
joblib.dump(IsolationForest(random_state=0).fit(train), "outlier/model.joblib")

here = DockerOptions(runtime="mlserver_tempo.endpoints.V2Runtime")  # on the server that runs the pipeline


def served(name):
    return Model(name=name, platform=ModelFramework.SKLearn, local_folder=name, runtime_options=here)


@pipeline(
    name="gate",
    local_folder="gate",
    models=PipelineModels(flower=served("flower"), outlier=served("outlier")),
)
def gate(payload: np.ndarray) -> np.ndarray:
    """The kind of each flower; -1 for all of them if one is like none that was seen."""
    if (gate.models.outlier(payload) < 0).any():
        return np.full(len(payload), -1)
    return gate.models.flower(payload)


tempo.save(gate, save_env=False)
