"""A classifier on digits, with early stopping: 64 numbers in, one of ten classes out."""

import xgboost as xgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, digits = load_digits(return_X_y=True)
train, test, train_digits, test_digits = train_test_split(images, digits, random_state=0)
model = xgb.XGBClassifier(n_estimators=100, max_depth=4, early_stopping_rounds=5)
model.fit(train, train_digits, eval_set=[(test, test_digits)], verbose=False)
print(f"accuracy on unseen digits: {model.score(test, test_digits):.2f}, {model.best_iteration + 1} rounds")
model.save_model("model.json")
