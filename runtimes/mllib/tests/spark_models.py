"""Models of every kind that is served, trained by a local Spark."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

X = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [2.0, 2.0, 0.0], [3.0, 1.0, 1.0]] * 5)
Y = np.array([0.0, 0.0, 1.0, 1.0] * 5)
FLATS = [("Rome", 30.0, 2, "yes"), ("Oslo", 40.0, 1, "yes"), ("Rome", 90.0, 3, "no"), ("Oslo", 99.0, 4, "no")]
TEXTS = [("good fine good", 1.0), ("fine", 1.0), ("bad awful", 0.0), ("bad", 0.0)]


class Saved(NamedTuple):
    """What was trained, by name: the folder, and the model as Spark has it."""

    folder: Path
    spark: Any
    models: dict[str, Any]


def train(spark: Any) -> dict[str, Any]:
    """Models by name: those of pyspark.mllib by their format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # some trainers of pyspark.mllib are deprecated
        return {**_rdd_based(spark.sparkContext), **_frame_based(spark)}


def _rdd_based(context: Any) -> dict[str, Any]:
    from pyspark.mllib import classification, clustering, regression, tree

    rows = context.parallelize(list(X), 1)
    points = context.parallelize(
        [regression.LabeledPoint(y, x) for x, y in zip(X, Y, strict=True)], 1
    ).cache()
    weighted = context.parallelize([(y, x[0], 1.0) for x, y in zip(X, Y, strict=True)], 1)
    categories: dict[int, int] = {}
    return {
        "LogisticRegression": classification.LogisticRegressionWithLBFGS.train(points, iterations=5),
        "NaiveBayes": classification.NaiveBayes.train(points),
        "SVM": classification.SVMWithSGD.train(points, iterations=3),
        "KMeans": clustering.KMeans.train(rows, 2, maxIterations=3, seed=1),
        "IsotonicRegression": regression.IsotonicRegression.train(weighted),
        "LinearRegression": regression.LinearRegressionWithSGD.train(points, iterations=3),
        "Lasso": regression.LassoWithSGD.train(points, iterations=3),
        "RidgeRegression": regression.RidgeRegressionWithSGD.train(points, iterations=3),
        "DecisionTree": tree.DecisionTree.trainClassifier(points, 2, categories, maxDepth=2),
        "GradientBoostedTrees": tree.GradientBoostedTrees.trainRegressor(points, categories, numIterations=2),
        "RandomForest": tree.RandomForest.trainClassifier(points, 2, categories, 3, maxDepth=2, seed=1),
    }


def _frame_based(spark: Any) -> dict[str, Any]:
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import HashingTF, SQLTransformer, StringIndexer, Tokenizer, VectorAssembler
    from pyspark.ml.linalg import Vectors

    flats = spark.createDataFrame(FLATS, ["city", "size", "rooms", "let"])
    texts = spark.createDataFrame(TEXTS, ["text", "label"])
    vectors = spark.createDataFrame(
        [(Vectors.dense(x), y) for x, y in zip(X.tolist(), Y.tolist(), strict=True)], ["features", "label"]
    )
    city = StringIndexer(inputCol="city", outputCol="city_index")
    label = StringIndexer(inputCol="let", outputCol="label").fit(flats)
    features = VectorAssembler(inputCols=["city_index", "size", "rooms"], outputCol="features")
    numbers = VectorAssembler(inputCols=["size", "rooms"], outputCol="features")
    fit = LogisticRegression(maxIter=5)
    labelled = label.transform(flats)
    return {
        "flats": Pipeline(stages=[city, features, fit]).fit(labelled),
        "numbers": Pipeline(stages=[numbers, fit]).fit(labelled),
        "texts": Pipeline(
            stages=[
                Tokenizer(inputCol="text", outputCol="words"),
                HashingTF(inputCol="words", outputCol="features", numFeatures=32),
                fit,
            ]
        ).fit(texts),
        "classifier": fit.fit(vectors),
        "statement": Pipeline(
            stages=[SQLTransformer(statement="SELECT *, size / rooms AS each FROM __THIS__")]
        ).fit(flats),
    }
