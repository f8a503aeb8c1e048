"""What the pages ask of the API, as the person in front of them. Its messages stand in `mlops_fraud.deployment.desk`, whose
import would keep the first visitor waiting for a whole service."""

import json
from typing import Any
from urllib.parse import quote

import httpx
import streamlit as st
from texts import plain

from mlops_fraud.schemas import DecisionResponse
from mlops_fraud.settings import settings


class Told(dict[str, Any]):
    "A JSON object, its fields also as attributes."

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Unanswered(RuntimeError):
    "The API is away, not ready, or refused; the message is for the person in front of the page."


class NotSignedIn(Unanswered):
    "The API wants a key that it knows."


@st.cache_resource
def _line(url: str) -> httpx.Client:
    "A connection that stays open."
    return httpx.Client(base_url=url, timeout=30)


def _answer(method: str, path: str, **request: Any) -> httpx.Response:
    url, key = settings().api_url, st.session_state.get("key")
    try:
        response = _line(url).request(method, path, headers={"X-API-Key": key} if key else {}, **request)
    except httpx.TransportError:
        raise Unanswered(f"The API does not answer at {url}. Start it with `make run`, then reload this page.") from None
    if response.status_code >= 500 and "json" not in response.headers.get("content-type", ""):
        raise Unanswered(f"The API failed on this ({method} {path}); what went wrong stands in its log.")
    if response.status_code != 200:
        problem = response.json()
        said = "\n".join(f"* {plain(line)}" for line in problem["errors"]) or plain(problem["detail"])
        raise (NotSignedIn if response.status_code == 401 else Unanswered)(said)
    return response


def _told(method: str, path: str, **request: Any) -> Any:
    return json.loads(_answer(method, path, **request).content, object_hook=Told)


def whoami() -> Told:
    "Who sits in front of the page."
    return _told("GET", "/whoami")


def ready() -> Told:
    "The model that answers, and the clock and number of events of its past."
    return _told("GET", "/readyz")


def ask(transaction: dict[str, Any], counted: bool) -> DecisionResponse:
    "The explained decision on `transaction`, counted as a real one or only tried."
    path = "/predict" if counted else "/whatif"
    response = _answer("POST", path, params={"explain": "full"}, json=transaction)
    return DecisionResponse.model_validate_json(response.content)


def about() -> Told:
    "The model that answers."
    return _told("GET", "/model")


def live(minutes: float) -> Told:
    "The last `minutes` in figures."
    return _told("GET", "/desk/live", params={"minutes": minutes})


def queue(asked: dict[str, Any]) -> Told:
    "A page of alerts."
    return _told("GET", "/desk/alerts", params=asked)


def act(action: str, transaction_ids: list[str], **more: Any) -> Told:
    "Take, assign, conclude or undo, in the person's name."
    person = st.session_state.get("person")
    by = {} if person and person.name else {"by": st.session_state.get("name") or None}
    return _told("POST", f"/desk/{action}", json={"transaction_ids": transaction_ids, **by, **more})


def dossier(transaction_id: str) -> Told:
    "All about one transaction; the `answer` is a `DecisionResponse`."
    found = _told("GET", f"/desk/transactions/{quote(transaction_id, safe='')}")
    return Told(found, answer=DecisionResponse.model_validate(found.record.answer))


def nearest(transaction_id: str) -> Told:
    "What would have to be otherwise for another decision."
    return _told("GET", f"/desk/nearest/{quote(transaction_id, safe='')}")


def monitor() -> Told:
    "What the log says about model, labels and clients."
    return _told("GET", "/desk/monitor")


def reasons(n: int) -> Told:
    "What `n` decisions rested on."
    return _told("GET", "/desk/reasons", params={"n": n})


def versions() -> list[Told]:
    "The registered versions."
    return _told("GET", "/desk/versions")
