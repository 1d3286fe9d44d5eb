"""
The trees: LightGBM on feature rows.  Knows numbers and their columns' names; knows no strings.
"""

import lightgbm
import numpy as np
import numpy.typing as npt

from urlguard.classify.training.matrix import Matrix

# Few, broad leaves: what must hold for campaigns to come should rest on many names.
PARAMETERS: dict[str, object] = {
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.1,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 255,
    "seed": 1,
    # The same trees from the same rows, whatever the machine does meanwhile.
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 2,
    "verbose": -1,
}
ROUNDS = 120

Floats = npt.NDArray[np.float64]


def train(
    matrix: Matrix,
    label: npt.NDArray[np.int8],
    weight: Floats,
    names: list[str],
    constraints: list[int],
) -> lightgbm.Booster:
    """
    Trees that tell rows with label 1 from the others.

    Args:
        matrix: a row of features each.
        label: 1 or 0.
        weight: how much each row counts.
        names: of the features.
        constraints: for each feature, the direction that it may move the score in; 0: any.
    """
    data = lightgbm.Dataset(matrix, label, weight=weight, feature_name=names)
    return lightgbm.train({**PARAMETERS, "monotone_constraints": constraints}, data, ROUNDS)


def raw(booster: lightgbm.Booster, matrix: Matrix) -> Floats:
    """The raw margin of each row: log-odds, before calibration."""
    if not len(matrix):
        return np.zeros(0)
    return np.asarray(booster.predict(matrix, raw_score=True, num_threads=2))


def gain(booster: lightgbm.Booster) -> list[tuple[str, float]]:
    """Each feature and how much of the loss it took away, the most first."""
    found = zip(booster.feature_name(), booster.feature_importance("gain"), strict=True)
    return sorted(((name, float(value)) for name, value in found), key=lambda item: -item[1])
