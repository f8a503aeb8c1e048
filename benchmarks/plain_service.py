"""The service as one would write it first: FastAPI, pydantic, XGBoost's own SHAP values, and no log. The yardstick of `over_http.py`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import xgboost as xgb
from fastapi import FastAPI
from pydantic import BaseModel

from mlops_fraud import registry
from mlops_fraud.decisions import verdict
from mlops_fraud.schemas import TransactionRequest, Verdict
from mlops_fraud.settings import settings
from mlops_fraud.state import past, to_event


class Answer(BaseModel):
    "A decision and every SHAP value."

    probability: float
    decision: Verdict
    shap: dict[str, float]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    "Load the model, and the past from the history."
    app.state.model = registry.load().model
    app.state.past = past(Path(settings().history), Path(settings().ledger).parent, app.state.model.features)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(tx: TransactionRequest) -> Answer:
    "Score one transaction, and say why."
    model, event = app.state.model, to_event(tx)
    row = app.state.past.read(event)[None]
    app.state.past.update(event)
    contributions = model.booster.predict(xgb.DMatrix(row, nthread=1), pred_contribs=True)[0]
    probability = float(model.calibrated(contributions.sum()))
    decision = verdict(probability, model.description.thresholds)
    return Answer(probability=probability, decision=decision, shap=dict(zip(model.names, contributions.tolist())))


@app.get("/readyz")
async def ready() -> dict[str, str]:
    "The model is loaded."
    return {"status": "ready"}
