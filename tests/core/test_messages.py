"""Every event and command survives the trip into a trace and back."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpls.core.messages import Command, Event, LayerReceived, Source, from_plain, to_plain

LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**64 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=10),
    type(None): st.none(),
}
VALUES = st.recursive(
    st.one_of(*LEAVES.values(), st.booleans()),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5).filter(lambda key: key != "is"), inner, max_size=3)
    ),
    max_leaves=8,
)
CLASSES = [*get_args(Event), *get_args(Command), Source]


def anything_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type as the fields of events and commands are annotated."""
    if hint in LEAVES:
        return LEAVES[hint]
    if get_origin(hint) in (Union, types.UnionType):
        return st.one_of(*map(anything_of, get_args(hint)))
    if get_origin(hint) is tuple:
        return st.lists(anything_of(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) is dict:
        return st.dictionaries(LEAVES[str].filter(lambda key: key != "is"), VALUES, max_size=3)
    assert isinstance(hint, type)
    assert dataclasses.is_dataclass(hint) or issubclass(hint, tuple)
    fields = {name: anything_of(field) for name, field in get_type_hints(hint).items()}
    return st.builds(hint, **fields)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_it_comes_back_from_json_as_it_went(cls: type[Any], data: st.DataObject) -> None:
    value = data.draw(anything_of(cls))
    line = json.dumps(to_plain(value), allow_nan=False)
    assert from_plain(json.loads(line)) == value


def test_the_plain_form_names_the_class_and_its_fields() -> None:
    event = LayerReceived(3, "fc", 80, 7, 2, 0.5, (1.0, 2.0))
    assert to_plain(event) == {
        "is": "LayerReceived",
        "request_id": 3,
        "layer": "fc",
        "layer_bytes": 80,
        "version": 7,
        "round": 2,
        "wait_s": 0.5,
        "progress": [1.0, 2.0],
    }


def test_a_class_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="Exploded"):
        from_plain({"is": "Exploded"})
