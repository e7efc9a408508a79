"""A Spark pipeline on columns: texts and numbers in, a label and its probabilities out."""

import random

from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.sql import SparkSession

dice = random.Random(0)
rents = {"Oslo": 30, "Rome": 20, "Bonn": 15}
rows = []
for _ in range(500):
    city, size = dice.choice(list(rents)), dice.uniform(20, 140)
    rows.append((city, size, float(rents[city] * size + dice.gauss(0, 100) > 1600)))

spark = SparkSession.builder.master("local[*]").getOrCreate()
flats = spark.createDataFrame(rows, ["city", "size", "label"])
train, test = flats.randomSplit([0.8, 0.2], seed=0)
stages = [
    StringIndexer(inputCol="city", outputCol="city_index"),
    VectorAssembler(inputCols=["city_index", "size"], outputCol="features"),
    LogisticRegression(),
]
model = Pipeline(stages=stages).fit(train)
answers = model.transform(test).select("label", "prediction").collect()
print(f"accuracy on unseen flats: {sum(label == told for label, told in answers) / len(answers):.2f}")
model.write().overwrite().save("model")
