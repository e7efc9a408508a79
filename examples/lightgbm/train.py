"""A regression booster on named columns: measurements of patients in, the course of a disease out."""

import lightgbm as lgb
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

patients, progress = load_diabetes(return_X_y=True, as_frame=True)
train, test, train_progress, test_progress = train_test_split(patients, progress, random_state=0)
parameters = {"objective": "regression", "learning_rate": 0.05, "num_leaves": 7, "verbose": -1}
model = lgb.train(parameters, lgb.Dataset(train, train_progress), 100)
error = np.sqrt(np.mean((model.predict(test) - test_progress) ** 2))
print(
    f"root mean squared error on unseen patients: {error:.0f}, of the mean alone: {test_progress.std():.0f}"
)
model.save_model("model.bst")
