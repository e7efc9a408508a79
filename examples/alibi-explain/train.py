"""A classifier of flowers, and an explainer that finds out which measures made it decide as it did."""

import joblib
from alibi.explainers import AnchorTabular
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

iris = load_iris()
train, test, labels, test_labels = train_test_split(iris.data, iris.target, random_state=0)
model = LogisticRegression(max_iter=500).fit(train, labels)
print(f"accuracy on unseen flowers: {model.score(test, test_labels):.2f}")
joblib.dump(model, "iris/model.joblib")

explainer = AnchorTabular(model.predict, iris.feature_names, seed=1).fit(train)
explainer.save("why/explainer")
