"""Texts of others: Streamlit reads Markdown in most that it shows, and an account's name could be a link or a picture."""

import re


def verbatim(text: str) -> str:
    "`text` as it was sent, in the letters of a program."
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {re.sub(r'\s', ' ', text)} {fence}"


def plain(text: str) -> str:
    "`text` with no meaning of its own."
    return re.sub(r"([\\`*_\[\]<$~|#]|:(?=\w))", r"\\\1", text)
