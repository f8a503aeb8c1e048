"""How things look on every page: colours that everyone can tell apart, amounts, chances, charts, reports."""

import math
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import altair as alt
import polars as pl
import streamlit as st
from client import Told, Unanswered
from texts import plain, verbatim

from mlops_fraud.schemas import DecisionResponse, Explanation
from mlops_fraud.settings import project_root
from mlops_fraud.waterfall import waterfall

# Okabe and Ito's colours; words stand beside them everywhere
COLOURS = {"approve": "#0072B2", "review": "#E69F00", "block": "#D55E00"}
WORDS = {"approve": "Approved", "review": "Held for review", "block": "Blocked"}
BADGES = {"approve": ("blue", "Approve"), "review": ("orange", "Review"), "block": ("red", "Block")}
LABELS = {True: "fraud", False: "genuine", None: "not known"}


def page(title: str, body: Callable[[], None]) -> None:
    "A page's title and `body`; what the API refuses or cannot do is a sentence."
    st.title(title)
    said(body)()


def said[**P](body: Callable[P, None]) -> Callable[P, None]:
    "`body`, with the API's trouble as a sentence."

    @wraps(body)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            body(*args, **kwargs)
        except Unanswered as reason:
            st.error(str(reason))

    return guarded


def may_say() -> str:
    "Why the person may not say anything about alerts; empty if they may."
    person = st.session_state.get("person")
    if person and person.role not in ("analyst", "admin"):
        return f"The role {person.role} may look, but not say what an alert was. Ask for an analyst's key."
    if person and person.name is None and not st.session_state.get("name"):
        return "Say who you are in the sidebar; your name stands on everything that you say."
    return ""


def tell(outcome: Told, did: str) -> None:
    "What came of an action, after the page is drawn again."
    if outcome.done:
        which = verbatim(outcome.done[0]) if len(outcome.done) == 1 else f"{len(outcome.done)} transactions"
        st.toast(f"{which} {did}", icon=":material/check:")
    for transaction_id, why in list(outcome.refused.items())[:3]:
        st.toast(f"{verbatim(transaction_id)}: {plain(why)}", icon=":material/warning:")


def verb(place: Any, name: str, can: bool, do: Callable[..., None], *args: Any, help: str | None = None, **kwargs: Any) -> None:
    "A button whose key is the first letter of its `name`, and which lets `do` run with the rest."
    place.button(name, shortcut=name[0].lower(), disabled=not can, on_click=do, args=args, kwargs=kwargs, width="stretch", help=help)


# --- Numbers


def money(amount: float) -> str:
    "An amount as short as it can be said."
    for size, unit in ((1e9, "bn"), (1e6, "M"), (1e4, "k")):
        if abs(amount) >= 0.9995 * size:  # rounds to it
            return (
                f"{amount / (1e3 if unit == 'k' else size):,.3g} {unit}" if abs(amount) < 999.5 * size else f"{amount / size:,.0f} {unit}"
            )
    return f"{amount:,.2f}" if abs(amount) < 100 else f"{amount:,.0f}"


def chance(probability: float) -> str:
    "A probability in words that need no decimals to be right."
    if probability < 0.0001:
        return "below 0.01 %"
    if probability > 0.9999:
        return "above 99.99 %"
    return f"{100 * probability:.2g} %" if probability < 0.1 else f"{100 * probability:.{2 if probability > 0.9995 else 1}f} %"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g} ms" if value < 10 else f"{value:,.0f} ms"


def figure(place: Any, name: str, value: str, help: str, **more: Any) -> None:
    "A figure in a box, with what it means."
    place.metric(name, value, border=True, help=help, **more)


# --- A decision


def badge(decision: str) -> str:
    colour, word = BADGES[decision]
    return f":{colour}-badge[{word}]"


def why(answer: DecisionResponse) -> None:
    "The rules and reasons of a decision, in words."
    for rule in answer.rules:
        first = rule is answer.rules[0]
        st.warning(f"The rule *{rule.name}* decided: {rule.why}" if first else f"It also meets *{rule.name}*: {rule.why}")
    for earlier in answer.linked:
        st.warning(f"It cashes out just what was transferred by {verbatim(earlier)}: look at that one, too.")
    st.markdown("**Why**\n" + "\n".join(f"1. {reason['sentence']}" for reason in answer.reasons))


def picture(told: Explanation) -> None:
    "The waterfall of an explanation, on a light or dark page."
    dark = st.context.theme.type == "dark"
    st.pyplot(waterfall(told, ink="#E6E6E6" if dark else "black"), width="stretch")
    st.caption(
        "Orange raises the risk, blue lowers it. The bars start at the average transaction and add up to this one's score, in log-odds: 0 is a chance of one half, each step of 2.3 makes fraud ten times as likely against genuine."
    )


def ruler(probability: float, limits: Any) -> Any:
    "Where a probability stands between the limits; even steps are even factors."
    ends = [1e-5, limits.review, limits.block, 1 - 1e-5]
    at = [_log_odds(p) for p in ends]
    bands = pl.DataFrame({"from": at[:-1], "to": at[1:], "decision": [WORDS[d] for d in COLOURS]}).filter(pl.col("to") > pl.col("from"))
    colours = alt.Color("decision:N", scale=alt.Scale(domain=list(WORDS.values()), range=list(COLOURS.values())), legend=None)
    percent = "datum.value > 6 ? '99.9 %' : format(1 / (1 + exp(-datum.value)), '.2~%')"
    axis = alt.Axis(values=[_log_odds(p) for p in (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)], labelExpr=percent, title=None)
    scale = alt.Scale(domain=[at[0], at[-1]], nice=False)
    strip = (
        alt.Chart(bands)
        .mark_bar(height=14, opacity=0.75)
        .encode(x=alt.X("from:Q", axis=axis, scale=scale), x2="to:Q", color=colours, tooltip=["decision:N"])
    )
    here = alt.Chart(pl.DataFrame({"at": [_log_odds(probability)], "says": [chance(probability)]}))
    point = here.mark_point(shape="diamond", size=220, filled=True, color="black", stroke="white", strokeWidth=2, opacity=1).encode(
        x="at:Q", tooltip=[alt.Tooltip("says:N", title="this one")]
    )
    return alt.layer(strip, point).properties(height=58)


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-5), 1 - 1e-5)
    return math.log(p / (1 - p))


# --- Reports


def report(name: str) -> bool:
    "Show reports/`name` with its figures. False if the pipeline has not written it."
    path = project_root() / "reports" / name
    if not path.exists():
        return False
    for i, part in enumerate(re.split(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text())):
        if i % 2 and (path.parent / part).exists():
            st.image(str(path.parent / part))
        elif part.strip() and not i % 2:
            st.markdown(re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", re.sub(r"^# .+\n", "", part)))
    return True


def table(name: str) -> pl.DataFrame | None:
    "The figures in reports/plots/`name`, if the pipeline has written them."
    path = project_root() / "reports/plots" / name
    return pl.read_csv(path) if path.exists() else None


def frame(rows: list[Any], names: dict[str, str]) -> pl.DataFrame:
    "The fields of `rows` that `names` names, under their titles."
    return pl.DataFrame({title: [getattr(row, field) for row in rows] for field, title in names.items()})
