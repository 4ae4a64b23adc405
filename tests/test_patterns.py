from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pykernels import patterns
from pykernels.model import short_hash

ID = "stream[op=load,level=DRAM,fp64] native:x86_64_v3 @cpu*1"
OTHER = "stream[op=load,level=DRAM,fp64] native:x86_64_v3 @cpu*16"


def test_brackets_are_literal_and_star_is_the_only_wildcard() -> None:
    assert patterns.matches("stream[op=load*", ID)
    assert not patterns.matches("strea?[op=load*", ID)
    assert not patterns.matches("stream[a-z]*", ID)
    assert patterns.matches("*native:*", ID)


def test_an_exact_id_selects_itself_only() -> None:
    assert patterns.select(ID, [ID, OTHER]) == [ID]


def test_a_piece_of_an_id_selects_all_that_hold_it() -> None:
    assert patterns.select("op=load", [ID, OTHER]) == [ID, OTHER]
    assert patterns.select("op=copy", [ID, OTHER]) == []


def test_the_short_hash_selects() -> None:
    assert patterns.select(short_hash(OTHER), [ID, OTHER]) == [OTHER]
    assert patterns.matches(short_hash(ID), ID)


@given(st.text(alphabet="abc[]().+?^$*", min_size=1, max_size=12))
def test_any_text_is_a_legal_pattern_and_matches_itself(text: str) -> None:
    assert patterns.matches(text, text)
