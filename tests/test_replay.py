"""The claim that everything rests on: the service computes what the pipeline computed, to the bit."""

import httpx
import numpy as np
import polars as pl
import pytest
from conftest import Project, Serve

from mlops_fraud import registry
from mlops_fraud.deployment.replay import replay
from mlops_fraud.features import NAMES
from mlops_fraud.schemas import COLUMNS
from mlops_fraud.state import State


def rows_of(answers: list[dict]) -> np.ndarray:
    "The features in the answers, float32 (n, n_features)."
    values = [[a["explanation"]["values"][name] for name in NAMES] for a in answers]
    return np.array([[np.nan if v is None else v for v in row] for row in values], np.float32)


@pytest.mark.parametrize("source", ["project", "kaggle_project"])
def test_a_file_replayed_through_http_gives_the_rows_of_the_pipeline_to_the_bit(
    source: str, request: pytest.FixtureRequest, serve: Serve, record_property
) -> None:
    project: Project = request.getfixturevalue(source)
    n = 3_000
    pipeline = pl.read_parquet(project.rows).head(n)
    with serve(project) as (url, _):
        answers = list(replay([project.events[:n]], url, "proof", explain="full"))
    expected = pipeline.select(NAMES).to_numpy()
    record_property("rows_compared", len(answers))
    assert len(answers) == n
    assert rows_of(answers).tobytes() == np.ascontiguousarray(expected).tobytes()

    model = registry.load(project.settings).model
    margins = np.array([a["explanation"]["margin"] for a in answers], np.float32)
    assert margins.tobytes() == model.margin(expected).tobytes()


def test_the_service_goes_on_where_the_pipeline_stopped(project: Project, serve: Serve) -> None:
    last = project.events.tail(1).select(COLUMNS)
    following = last.with_columns(amount=pl.lit(181.0))
    state = State()
    state.fold(project.events)
    with serve(project, HISTORY=str(project.history)) as (url, _):
        assert httpx.get(f"{url}/readyz").json()["events"] == project.events.height
        answers = list(replay([following], url, "next", explain="full"))
    np.testing.assert_array_equal(rows_of(answers), state.fold(following))


def test_a_replay_that_broke_off_is_resumed_and_counts_nothing_twice(project: Project, serve: Serve) -> None:
    events = project.events[:300]
    with serve(project) as (url, _):
        first = list(replay([events[:200]], url, "broken"))
        again = list(replay([events], url, "broken"))
        assert httpx.get(f"{url}/readyz").json()["events"] == 300
    assert again[:200] == first
