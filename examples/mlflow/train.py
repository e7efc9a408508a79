"""Trains a regression, and saves it with code around it, a signature and a parameter."""

import shutil
import tempfile
from pathlib import Path

import joblib
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

random = np.random.default_rng(0)
flats = pd.DataFrame(
    {"city": random.choice(["Oslo", "Rome", "Bonn"], 500), "size": random.uniform(20, 140, 500)}
)
rent = (
    flats["size"] * 20 + flats["city"].map({"Oslo": 500, "Rome": 200, "Bonn": 0}) + random.normal(0, 50, 500)
)

train, test, train_rent, test_rent = train_test_split(flats, rent, random_state=0)
columns = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
model = make_pipeline(columns, LinearRegression()).fit(train, train_rent)
print(f"R2 on unseen flats: {model.score(test, test_rent):.2f}")

signature = ModelSignature(
    inputs=Schema([ColSpec("string", "city"), ColSpec("double", "size")]),
    outputs=Schema([ColSpec("double", "rent"), ColSpec("string", "currency")]),
    params=ParamSchema([ParamSpec("currency", "string", "EUR")]),
)
shutil.rmtree("model", ignore_errors=True)
with tempfile.TemporaryDirectory() as folder:
    regression = Path(folder) / "regression.joblib"
    joblib.dump(model, regression)
    mlflow.pyfunc.save_model(
        "model",
        python_model="rents.py",
        code_paths=["currencies.py"],
        artifacts={"regression": str(regression)},
        signature=signature,
        pip_requirements=["mlflow", "joblib", "scikit-learn"],
    )
