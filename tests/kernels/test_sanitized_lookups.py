"""Lookups, products with vectors and softmax under ASan and UBSan: odd sizes, empty bags, indices out of range."""

from __future__ import annotations

import numpy as np
import pytest
import sanitized

from pykernels.kernels.dtypes import Array
from pykernels.kernels.embedding import EmbeddingBag, EmbeddingGather
from pykernels.kernels.embedding_keys import DTYPES
from pykernels.kernels.gemv import Gemv
from pykernels.kernels.softmax import Softmax
from pykernels.machine.cpu import read_machine
from pykernels.model import Problem

FILES = ("embedding", "gemv", "softmax")
#: the narrowest vectors, and the widest with dot products (as -march names a CPU that has them)
MARCHES = {"x86-64-v2": "x86_64_v2", "cooperlake": "x86_64_v4_bf16"}


class BeyondBag(EmbeddingBag, frozen=True, kw_only=True):
    """Bags with an index just beyond the table, and one far beyond."""

    def host_input(self, name: str) -> Array:
        """Indices of which two are no rows."""
        found = np.array(super().host_input(name))
        if name == "indices" and found.size > 3:
            found[0, 1], found[0, -1] = sum(self.rows), -1
        return found


class BeyondGather(EmbeddingGather, frozen=True, kw_only=True):
    """A gather with an index far beyond the table."""

    def host_input(self, name: str) -> Array:
        """Indices of which the last is no row."""
        found = np.array(super().host_input(name))
        found[0, -1] = 2**31 - 1
        return found


def problems() -> list[Problem]:
    found: list[Problem] = []
    for dtype in DTYPES:
        for dim in (1, 3, 16, 33, 64, 100, 256, 272, 511):
            index = "int64" if dim % 3 else "int32"
            for kind in (EmbeddingBag, BeyondBag):
                found.append(
                    kind(dtype=dtype, rows=(1, 29), dim=dim, batch=7, pooling=((0, 9), (0, 3)), index=index, sets=2)
                )
            found.append(
                EmbeddingBag(dtype=dtype, rows=(5,), dim=dim, batch=3, pooling=((4, 4),), mode="sum", weighted=True)
            )
            for gather in (EmbeddingGather, BeyondGather):
                found.append(gather(dtype=dtype, rows=(31,), dim=dim, batch=19, index=index))
    for dtype in ("fp64", "fp32", "bf16", "int8", "int4"):
        for rows, cols, batch, parts in ((1, 2, 1, 1), (5, 98, 3, 1), (17, 258, 5, 2), (9, 1002, 16, 1)):
            found.append(Gemv(dtype=dtype, rows=rows, cols=cols, batch=batch, parts=parts))
    for dtype in ("fp32", "bf16"):
        for width in (1, 15, 16, 33, 64, 128, 256, 1003):
            found += [Softmax(dtype=dtype, rows=5, width=width, mask=mask) for mask in (False, True)]
    return found


@pytest.mark.parametrize("march", MARCHES)
def test_nothing_reaches_beyond_its_operands(march: str) -> None:
    if MARCHES[march] not in read_machine().isa:
        pytest.skip(f"this CPU cannot run {march}")
    variants = sanitized.run(march, FILES, problems())
    assert len(variants) == len(problems())
    assert all(line.strip() for line in variants)
