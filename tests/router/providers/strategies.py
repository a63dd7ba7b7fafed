"""Anything a provider may report as its usage, as a strategy."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
COUNT = st.integers(min_value=0, max_value=5000)


def reports(names: Sequence[str], parts: Sequence[str] = ()) -> st.SearchStrategy[object]:
    """Any JSON, and objects with the given names; ``parts`` hold objects with the same names."""
    flat = st.dictionaries(st.sampled_from(names), COUNT | JSON)
    plausible = st.fixed_dictionaries(
        {}, optional={**dict.fromkeys(names, COUNT), **dict.fromkeys(parts, flat)}
    )
    return JSON | flat | plausible
