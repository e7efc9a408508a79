"""Handwritten digits: scaling and a small neural network of scikit-learn as one graph, 64 numbers in."""

import numpy as np
import onnxruntime as ort
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

images, digits = load_digits(return_X_y=True)
images = images.astype(np.float32)
train, test, train_digits, test_digits = train_test_split(images, digits, random_state=0)
model = make_pipeline(MinMaxScaler(), MLPClassifier((32,), max_iter=60, tol=1e-2, random_state=0))
model.fit(train, train_digits)

graph = to_onnx(model, train[:1], options={"zipmap": False}).SerializeToString()
session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
(labels,) = session.run(["label"], {"X": test})
print(f"accuracy on unseen digits: {np.mean(labels == test_digits):.2f}")
with open("model.onnx", "wb") as file:
    file.write(graph)
