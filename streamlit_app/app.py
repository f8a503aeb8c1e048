"""The app: a frame around its pages, and who sits in front of it."""

import streamlit as st
from client import NotSignedIn, Unanswered, whoami
from texts import plain

# Streamlit would fetch a named icon from another site, and then that site knows who works here.
SHIELD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">
<path fill="#0072B2" d="M12 2 4 5v6c0 5 3.4 9.6 8 11 4.6-1.4 8-6 8-11V5z"/></svg>"""
st.set_page_config(page_title="mlops-fraud", page_icon=SHIELD, layout="wide")
# The folder is not called pages: Streamlit would by itself show its files to whoever comes first.
PAGES = [
    st.Page("views/live.py", title="Live", icon=":material/monitoring:", default=True),
    st.Page("views/alerts.py", title="Queue", icon=":material/inbox:", url_path="queue"),
    st.Page("views/transaction.py", title="Transaction", icon=":material/search:"),
    st.Page("views/score.py", title="Score", icon=":material/calculate:"),
    st.Page("views/model.py", title="Model", icon=":material/model_training:"),
    st.Page("views/monitor.py", title="Monitor", icon=":material/monitor_heart:"),
    st.Page("views/data.py", title="Data", icon=":material/database:"),
]


def sign_in() -> None:
    "Ask for the key, try it, and keep it for this session only."
    st.title("Sign in")
    with st.form("sign in"):
        key = st.text_input(
            "Your key", type="password", help="Whoever runs the service makes one: mlops-fraud key NAME viewer (or analyst)."
        )
        if st.form_submit_button("Sign in", type="primary") and key:
            st.session_state.key = key
            try:
                whoami()
            except Unanswered as reason:
                del st.session_state.key
                st.error(str(reason))
            else:
                st.rerun()


def sign_out() -> None:
    "Forget the key."
    st.session_state.clear()


st.html("<style>.stMainBlockContainer {padding: 3rem 2rem 2rem}</style>")  # room for figures
page = st.navigation(PAGES)
try:
    person = whoami()
except NotSignedIn:
    sign_in()
    st.stop()
except Unanswered:
    person = None  # type: ignore[assignment]  # each page says so in its own words
with st.sidebar:
    if person and person.name:
        st.markdown(f"**{plain(person.name)}** · {person.role}")
        st.button("Sign out", on_click=sign_out)
    elif "key" not in st.session_state:  # also while the API is away, or the name would be gone when it is back
        st.text_input("Your name", key="name", max_chars=64, help="It stands on everything that you say about an alert.")
        if person:
            st.caption("No keys are set: this machine may do everything.")
st.session_state.person = person
page.run()
