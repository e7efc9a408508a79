"""A ranker with a column of categories: which offer should come first for whom asks?"""

import numpy as np
import pandas as pd
from catboost import CatBoostRanker, Pool

random = np.random.default_rng(0)
questions, offers = 80, 10
frame = pd.DataFrame(
    {
        "kind": random.choice(["bus", "train", "plane"], questions * offers),
        "hours": random.uniform(1, 12, questions * offers).round(1),
        "price": random.uniform(10, 300, questions * offers).round(),
    }
)
liking = 3 - frame.hours / 6 - frame.price / 100 + frame.kind.map({"bus": 0, "train": 1, "plane": 0.3})
question = np.repeat(np.arange(questions), offers)
model = CatBoostRanker(iterations=100, verbose=0, allow_writing_files=False, random_seed=0)
model.fit(Pool(frame, liking.clip(0) / 4, group_id=question, cat_features=["kind"]))
agreement = pd.Series(model.predict(frame)).corr(liking, method="spearman")
print(f"rank correlation with the hidden liking: {agreement:.2f}")
model.save_model("model.cbm")
