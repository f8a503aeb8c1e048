"""What the pages ask of the API."""

from typing import Any

import httpx

from mlops_fraud.schemas import DecisionResponse
from mlops_fraud.settings import settings


class Unanswered(RuntimeError):
    "The API is away, not ready, or refused; the message is for the person in front of the page."


def _answer(method: str, path: str, **request: Any) -> httpx.Response:
    url = settings().api_url
    try:
        response = httpx.request(method, url + path, headers=settings().api_headers, timeout=30, **request)
    except httpx.TransportError:
        raise Unanswered(f"The API does not answer at {url}. Start it with `make run`, then reload this page.") from None
    if response.status_code != 200:
        problem = response.json()
        raise Unanswered("\n".join(f"* {line}" for line in problem["errors"]) or problem["detail"])
    return response


def ready() -> dict[str, Any]:
    "The model that answers, and the clock and number of events of its past."
    return _answer("GET", "/readyz").json()


def ask(transaction: dict[str, Any], counted: bool) -> DecisionResponse:
    "The explained decision on `transaction`, counted as a real one or only tried."
    path = "/predict" if counted else "/whatif"
    response = _answer("POST", path, params={"explain": "full"}, json=transaction)
    return DecisionResponse.model_validate_json(response.content)
