"""What is kept of the pieces is bounded, and true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.flower import recent_pieces
from server.flower.recent_pieces import RecentPieces

MOST = 10
PIECES = st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=30)
SIZES = {name: size for size, name in enumerate("abcdef", 2)}


@given(PIECES)
def test_the_pieces_used_last_are_kept_up_to_the_bound(used: list[tuple[str, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_pieces, "MOST_BYTES", MOST)
        recent, order = RecentPieces(), list[str]()
        for name, drop in used:
            order = [one for one in order if one != name]
            if drop:
                recent.drop(name)
            else:
                if recent.find(name) is None:
                    recent.keep(name, memoryview(name.encode() * SIZES[name]))
                order.append(name)
                while sum(SIZES[one] for one in order) > MOST:
                    order.pop(0)
            assert [one for one in recent._pieces] == order
            assert recent._bytes == sum(SIZES[one] for one in order)
        for name in order:
            piece = recent.find(name)
            assert piece is not None and piece.tobytes() == name.encode() * SIZES[name]
