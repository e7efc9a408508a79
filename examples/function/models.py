import numpy as np

import mlserver

RADIUS = 6371.0  # of the earth, in km


@mlserver.from_function
def distance(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Kilometres between points given as latitude and longitude in degrees, both of shape [rows, 2]."""
    (a_lat, a_lon), (b_lat, b_lon) = np.radians(start).T, np.radians(end).T
    half = np.sin((b_lat - a_lat) / 2) ** 2 + np.cos(a_lat) * np.cos(b_lat) * np.sin((b_lon - a_lon) / 2) ** 2
    return 2 * RADIUS * np.arcsin(np.sqrt(half))
