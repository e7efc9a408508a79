"""A pipeline on the columns of a DataFrame: texts and numbers in, a yes or no out."""

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

random = np.random.default_rng(0)
flats = pd.DataFrame(
    {"city": random.choice(["Oslo", "Rome", "Bonn"], 500), "size": random.uniform(20, 140, 500)}
)
rent = flats["size"] * flats["city"].map({"Oslo": 30, "Rome": 20, "Bonn": 15})
expensive = np.where(rent + random.normal(0, 100, 500) > 1600, "yes", "no")

train, test, train_labels, test_labels = train_test_split(flats, expensive, random_state=0)
columns = make_column_transformer((OneHotEncoder(), ["city"]), (StandardScaler(), ["size"]))
model = make_pipeline(columns, LogisticRegression()).fit(train, train_labels)
print(f"accuracy on unseen flats: {model.score(test, test_labels):.2f}")
joblib.dump(model, "model.joblib")
