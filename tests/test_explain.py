"""Explanations against the SHAP library."""

import numpy as np
import shap
from conftest import Project

from mlops_fraud import registry
from mlops_fraud.preprocessing import read_rows


def test_every_answer_s_parts_are_the_shap_values_of_its_model(project: Project) -> None:
    model = registry.load(project.settings).model
    rows = read_rows(project.rows, "test").x[:500]
    contributions = model.contributions(rows)
    explainer = shap.TreeExplainer(model.booster, feature_perturbation="tree_path_dependent")
    np.testing.assert_allclose(contributions[:, :-1], explainer.shap_values(rows), atol=1e-5)
    np.testing.assert_allclose(contributions.sum(axis=1), model.margin(rows), atol=1e-4)
    one_by_one = np.concatenate([model.contributions(row[None]) for row in rows[:50]])
    np.testing.assert_array_equal(one_by_one, contributions[:50])
