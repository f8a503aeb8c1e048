"""The queue: alerts, worst expected loss first, and what analysts do about them."""

from typing import Any

import polars as pl
import streamlit as st
from client import Told, Unanswered, act, queue
from look import BADGES, frame, may_say, money, page, tell, verb

from mlops_fraud.casework import Total
from mlops_fraud.schemas import TYPES

PAGE = 50  # alerts
STATES = ("new", "in review", "fraud", "genuine")
CHOSEN = ("kind", "decision", "least", "most", "hours", "recipient", "mine", "status")  # what a person may choose, by its widget
COLUMNS = {
    "loss": "Expected loss", "amount": "Amount", "probability": "Chance of fraud", "decision": "Decision", "type": "Type", "step": "Hour",
    "recipient": "Recipient", "legs": "Legs", "status": "Status", "assignee": "With", "transaction_id": "Transaction",
}  # fmt: skip
CONFIG = {
    "Expected loss": st.column_config.NumberColumn(
        format="compact", help="Chance of fraud times amount: what approving it would cost on average."
    ),
    "Amount": st.column_config.NumberColumn(format="localized", help="In the log's currency."),
    "Chance of fraud": st.column_config.NumberColumn(
        format="percent", help="Of a hundred transactions with this figure, about so many are fraud."
    ),
    "Decision": st.column_config.TextColumn(help="What the service did: hold it for review, or block it."),
    "Hour": st.column_config.NumberColumn(help="Hours since the log began."),
    "Legs": st.column_config.NumberColumn(help="Transactions in its case: a transfer and the cash-outs of just its amount."),
    "With": st.column_config.TextColumn(help="Who has it, or found what it was."),
}


def filters() -> dict[str, Any]:
    "What the person wants to see."
    first = st.columns([1, 1, 1, 1, 1, 1.4, 1], vertical_alignment="bottom")
    kind = first[0].selectbox("Type", ["all", *TYPES], key="kind")
    decision = first[1].selectbox("Decision", ["all", *list(BADGES)[1:]], key="decision")
    least = first[2].number_input("Amount from", 0.0, value=None, step=1_000.0, key="least", help="In the log's currency.")
    most = first[3].number_input("to", 0.0, value=None, step=1_000.0, key="most", help="In the log's currency.")
    hours = first[4].selectbox("Time", ["all", "last hour", "last day", "last week"], key="hours", help="By the log's own clock.")
    recipient = first[5].text_input("Recipient", key="recipient", placeholder="an account's whole name")
    mine = first[6].toggle("Only mine", key="mine")
    chosen = {"type": kind, "decision": decision, "at_least": least, "at_most": most, "recipient": recipient.strip()}
    if mine:
        person = st.session_state.get("person")
        chosen["assignee"] = (person and person.name) or st.session_state.get("name") or "nobody"
    if hours != "all":
        chosen["since"] = max(st.session_state.get("step", 0) - {"last hour": 0, "last day": 23, "last week": 167}[hours], 0)
    return {name: value for name, value in chosen.items() if value not in (None, "", "all")}


def turn(found: Told | None) -> None:
    "Forward to the page after `found`, or back to the first."
    st.session_state.after = [*st.session_state.after, found.after] if found else st.session_state.after[:-1]
    st.session_state.drawn += 1


def do(action: str, ids: list[str], did: str, **more: Any) -> None:
    "Let the API do it, remember it for the undo, and draw the queue again without a selection."
    try:
        outcome = act(action, ids, **more)
    except Unanswered as reason:
        st.toast(str(reason), icon=":material/warning:")
        return
    tell(outcome, did)
    if action != "undo" and outcome.done:
        st.session_state.last = outcome.done
    elif action == "undo":
        st.session_state.last = []
    st.session_state.drawn += 1


def buttons(ids: list[str]) -> None:
    "What can be done with the selected alerts, each with its key."
    barred, last = may_say(), st.session_state.last
    places = st.columns([1, 1, 1, 1.3, 1, 1.3, 1.3], vertical_alignment="bottom")
    whole: dict[str, Any] = {
        "whole_case": places[6].toggle("Whole case", key="whole", help="Do it to all legs of the selected alerts' cases.")
    }
    can = bool(ids) and not barred
    verb(places[0], "Take", can, do, "take", ids, "taken", **whole)
    verb(places[1], "Fraud", can, do, "conclude", ids, "labelled fraud", fraud=True, **whole)
    verb(places[2], "Genuine", can, do, "conclude", ids, "labelled genuine", fraud=False, **whole)
    what = "The last step on the selected alerts, or else your last action."
    verb(places[3], "Undo", bool(ids or last) and not barred, do, "undo", ids or last, "undone", help=what, **(whole if ids else {}))
    if places[4].button("Open", shortcut="o", disabled=len(ids) != 1, width="stretch", help="All about the one that is selected."):
        st.switch_page("views/transaction.py", query_params={"id": ids[0]})
    with places[5].popover("Give to", disabled=not can, width="stretch"):
        colleague = st.text_input("Who shall have them", key="colleague", placeholder="a name, as they sign in").strip()
        given = {"to": colleague, **whole}
        st.button("Give", disabled=not colleague, on_click=do, args=("assign", ids, f"given to {colleague}"), kwargs=given)
    if barred:
        st.caption(barred)


def shown(asked: dict[str, Any]) -> tuple[str, Told]:
    """The page of the queue that was `asked` for, and the key of its table. While alerts are selected it stays as it was drawn:
    a selection is row numbers, and on a list that has changed meanwhile they would be those of other alerts."""
    state = st.session_state
    drawn, key, found = state.get("page", (None, "", None))
    if drawn != (asked, state.drawn) or not (key in state and state[key].selection.rows):
        found = queue(asked)
        key = f"table {state.drawn} {hash(tuple(alert.transaction_id for alert in found.alerts))}"
        state.page = ((asked, state.drawn), key, found)
    return key, found


def body() -> None:
    for name, start in (("after", []), ("last", []), ("drawn", 0), ("chosen", {"status": "new"})):
        st.session_state.setdefault(name, start)
    for name, value in st.session_state.chosen.items():  # Streamlit forgets it with the page, and one comes back from an alert
        st.session_state.setdefault(name, value)
    chosen = filters()
    status = st.session_state.status
    wanted = {**chosen, **({"status": status} if status else {})}
    if st.session_state.get("wanted") != wanted:
        st.session_state.wanted, st.session_state.after = wanted, []
    key, found = shown({**wanted, "n": PAGE, **({"after": st.session_state.after[-1]} if st.session_state.after else {})})
    st.session_state.step = found.step
    totals = {state: found.totals.get(state, Total(0, 0.0)) for state in STATES}
    st.segmented_control("Status", STATES, key="status", format_func=lambda s: f"{s} · {totals[s].n:,}", label_visibility="collapsed")
    st.session_state.chosen = {name: st.session_state[name] for name in CHOSEN}
    if not found.alerts:
        st.info("No alert passes these filters." if chosen or status else "No alert yet: nothing was held or blocked.")
        return
    rows = frame(
        found.alerts,
        {
            field: title
            for field, title in COLUMNS.items()
            if field not in ("status" if status else "", "assignee" if status == "new" else "")
        },
    )
    event = st.dataframe(
        rows,
        key=key,
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        column_config=CONFIG,
        height=min(38 + 35 * rows.height, 560),
    )
    ids = [found.alerts[i].transaction_id for i in event.selection.rows]
    buttons(ids)
    selected = rows.filter(pl.col("Transaction").is_in(ids))
    passed = [totals[status]] if status else list(totals.values())
    n, loss = sum(total.n for total in passed), sum(total.loss for total in passed)
    start = PAGE * len(st.session_state.after)
    told = f"{len(ids)} selected, worth {money(float(selected['Amount'].sum()))}. " if ids else ""
    st.caption(
        f"{told}{n:,} alerts pass the filters, with an expected loss of {money(loss)}; the worst stand first, here {start + 1:,} to {start + rows.height:,}, which are what a column's head sorts. Keys: T take, F fraud, G genuine, U undo, O open, N next, B back."
    )
    back, forth, _ = st.columns([1, 1, 4])
    back.button("Back", shortcut="b", disabled=not st.session_state.after, on_click=turn, args=(None,), width="stretch")
    forth.button("Next", shortcut="n", disabled=not found.after, on_click=turn, args=(found,), width="stretch")


page("Queue", body)
