"""The checked blocks in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lazyfs.memory import CheckedBlocks
from lazyfs.versions import BlobId

BLOB = BlobId("url-" + "0" * 64)


@given(st.integers(0, 40), st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 30))))
def test_least_recently_used_goes_first(limit: int, steps: list[tuple[bool, int, int]]) -> None:
    blocks, model = CheckedBlocks(limit), dict[int, bytes]()
    for is_add, index, length in steps:
        if is_add:
            model.pop(index, None)
            model[index] = bytes(length)
            blocks.add((BLOB, index), model[index])
            while sum(map(len, model.values())) > limit:
                del model[next(iter(model))]
        else:
            assert blocks.get((BLOB, index)) is model.get(index)
            if index in model:
                model[index] = model.pop(index)
