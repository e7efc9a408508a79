"""Train models of trees on iris with the libraries of this interpreter: `python train_trees.py FOLDER`.

Prints, as JSON, what each answers to the row that is asked about.
"""

import json
import pathlib
import sys

import catboost
import lightgbm
import numpy as np
import xgboost
from sklearn.datasets import load_iris

TREES = 100

folder = pathlib.Path(sys.argv[1])
features, classes = load_iris(return_X_y=True)
row = np.array([[5.1, 3.5, 1.4, 0.2]])
target = classes + 10.0

extreme = xgboost.XGBRegressor(n_estimators=TREES).fit(features, target)
extreme.save_model(folder / "model.json")
light = lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(features, target), TREES)
light.save_model(folder / "model.bst")
# MLServer serves no regressors of CatBoost.
cat = catboost.CatBoostClassifier(iterations=TREES, verbose=0, allow_writing_files=False).fit(
    features, classes
)
cat.save_model(str(folder / "model.cbm"))
answers = {"xgboost": extreme.predict(row), "lightgbm": light.predict(row), "catboost": cat.predict(row)}
print(json.dumps({name: float(answer.ravel()[0]) for name, answer in answers.items()}))
