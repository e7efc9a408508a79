"""A model of one's own code: what a flat may cost, in a currency that the request may choose."""

import joblib
import mlflow
import pandas as pd
from currencies import PER_EURO


class Rents(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.regression = joblib.load(context.artifacts["regression"])

    def predict(self, context, model_input, params=None):
        currency = (params or {}).get("currency", "EUR")
        rents = self.regression.predict(model_input) * PER_EURO[currency]
        return pd.DataFrame({"rent": rents.round(2), "currency": currency})


mlflow.models.set_model(Rents())
