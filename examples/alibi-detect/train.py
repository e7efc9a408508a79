"""A drift detector: do flats now have other sizes and rents than those of the training?"""

import numpy as np
from alibi_detect.cd import KSDrift
from alibi_detect.saving import save_detector

random = np.random.default_rng(0)


def flats(count, smallest, largest):
    size = random.uniform(smallest, largest, count)
    return np.column_stack([size, 20 * size + random.normal(0, 100, count)])


detector = KSDrift(flats(500, 20, 140), p_val=0.05)
alarms = sum(detector.predict(flats(50, 20, 140))["data"]["is_drift"] for _ in range(100))
print(f"false alarms in 100 samples of the same flats: {alarms}")
save_detector(detector, "detector")
