"""A problem's operands on a device: where the ends put them, how they are filled, what crosses the link with every
call, and the parameter block of the kernel that gets them.

The block's pointers and dims are the problem's own, in its order. A CPU's call may cover one of `parts` of the
operands; most kernels here cover all of them in one launch, which is then so many calls (`calls_of_launch`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pykernels.backends.cuda_driver import Buffer, Device, Memory
from pykernels.backends.cuda_table import POINTERS
from pykernels.kernels import dtypes, random
from pykernels.kernels.cycle import Cycle
from pykernels.kernels.random import _BITS as BITS
from pykernels.model import Operand, Problem, Recipe
from pykernels.units import format_size

if TYPE_CHECKING:
    from pykernels.backends.cuda import CudaSession

Array = np.ndarray[Any, Any]

#: kernels whose launch covers every part of the operands
WHOLE = ("stream", "gemv", "softmax")


#: seconds to read one row by itself, and bytes a second of all rows at once into fresh memory
ROW_S, WHOLE_BPS = 12e-6, 3e9
#: an operand is not read before it is looked at from this size on
LAZY_BYTES = 32 << 20


class DeviceArray:
    """An array that stays on the device until it is looked at: `a[rows]` with a list of rows reads those rows, where
    that is quicker; whatever else is asked of it reads all of it, once. A check of 256 results out of a table of
    gigabytes reads thousands of rows in place of the table."""

    def __init__(self, device: Device, buffer: Buffer, dtype: Any, shape: tuple[int, ...]) -> None:
        self._device, self._buffer, self.dtype, self.shape = device, buffer, np.dtype(dtype), shape
        self._all: Array | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        listed = isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.ndim == 1
        if self._all is None and listed and len(rows) * ROW_S < self._buffer.nbytes / WHOLE_BPS:
            return self._listed(rows)
        found: Array = self.__array__()[rows]
        return found

    def _listed(self, rows: Array) -> Array:
        """Rows one by one, each once."""
        wanted, places = np.unique(rows, return_inverse=True)
        if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < len(self):
            raise IndexError(f"row {wanted[0]} or {wanted[-1]} is outside of {len(self)}")
        row_bytes = self._buffer.nbytes // max(1, len(self))
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        for at, row in enumerate(wanted.tolist()):
            found[at] = self._device.read(self._buffer.part(row * row_bytes, row_bytes), self.dtype, self.shape[1:])
        return found[places]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if self._all is None:
            self._all = self._device.read(self._buffer, self.dtype, self.shape)
        return self._all if dtype is None else self._all.astype(dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__array__(), name)


def host_copy(device: Device, source: Buffer, dtype: Any, shape: tuple[int, ...]) -> Array:
    """What a buffer holds: the host's own memory as it lies there, what is large when it is looked at, else a copy."""
    if not math.prod(shape):
        return np.empty(shape, dtype)
    if source.host and source.memory != "managed":  # the host reading managed memory would move it
        device.synchronize()
        count = math.prod(shape) * np.dtype(dtype).itemsize
        seen: Array = device.host_view(source)[:count].view(dtype).reshape(shape)
        return seen
    if source.nbytes < LAZY_BYTES:
        return device.read(source, dtype, shape)
    return cast(Array, DeviceArray(device, source, dtype, shape))


class Operands:
    """A problem's operands in their places: what ends say of the table, pinned twins of what crosses the link."""

    def __init__(self, session: CudaSession, problem: Problem) -> None:
        self.session, self.device, self.problem = session, session.device, problem
        self.operands = problem.operands()
        self.buffers: dict[str, Buffer] = {}
        self.pinned: dict[str, Buffer] = {}
        self._copies: dict[str, Array] = {}
        self._check_free()
        try:
            for operand in self.operands:
                self.buffers[operand.name] = self.device.alloc(_bytes(operand), self._memory(operand))
                if operand.role != "out":
                    self._fill(operand)
            for name in (*self.arriving, *self.leaving):
                self.pinned[name] = self.device.alloc(self.buffers[name].nbytes, "pinned")
            for name in self.arriving:
                self.device.copy(self.pinned[name], self.buffers[name], self.buffers[name].nbytes)
            self.device.synchronize()
        except BaseException:
            self.close()
            raise

    def _check_free(self) -> None:
        """Raise MemoryError before anything is allocated, where the operands are more than the device has free."""
        needed = sum(_bytes(o) for o in self.operands if self._memory(o) in ("device", "managed"))
        free = self.device.free_memory()
        if needed > free:
            others = self.device.sensors().others
            users = f"; {others} other process{'' if others == 1 else 'es'} on it" if others else ""
            raise MemoryError(f"its operands take {format_size(needed)}, the GPU has {format_size(free)} free{users}")

    def _memory(self, operand: Operand) -> Memory:
        """Where an operand lives: the table as the ends say; what crosses the link uncopied, in mapped memory."""
        if operand.name == self.table:
            return self.session.ends.table
        crosses = self.session.ends.inputs_arrive if operand.role == "in" else self.session.ends.results_leave
        return "pinned" if self.mapped and crosses else "device"

    @property
    def mapped(self) -> bool:
        """True where kernels read and write host memory in place of copies."""
        return self.session.placement.launch in ("mapped", "persistent")

    @property
    def table(self) -> str:
        """The largest input: what the ends of a lookup place."""
        inputs = [operand for operand in self.operands if operand.role == "in"]
        return max(inputs, key=_bytes).name if inputs else ""

    @property
    def arriving(self) -> tuple[str, ...]:
        """Inputs that cross the link with every call; what is empty (weights where there are none) does not."""
        if self.mapped or not self.session.ends.inputs_arrive:
            return ()
        crossing = (o for o in self.operands if o.role != "out" and o.name != self.table)
        return tuple(o.name for o in crossing if math.prod(o.shape))

    @property
    def leaving(self) -> tuple[str, ...]:
        """Outputs that cross the link with every call."""
        if self.mapped or not self.session.ends.results_leave:
            return ()
        return tuple(o.name for o in self.operands if o.role != "in")

    def pointers(self, turn: int = 0) -> list[int]:
        """Device pointers in the kernel's order, those of rotating operands at the set of this turn."""
        return [self.part(self.buffers, operand.name, turn).pointer for operand in self.operands]

    def part(self, buffers: dict[str, Buffer], name: str, turn: int) -> Buffer:
        """What one call uses of a buffer: of `indices` one of the problem's sets, which rotate; else all of it."""
        sets = int(getattr(self.problem, "sets", 1))
        if name != "indices" or sets == 1:
            return buffers[name]
        size = buffers[name].nbytes // sets
        return buffers[name].part(turn % sets * size, size)

    def read(self, *roles: str) -> dict[str, Array]:
        """Host copies, large ones read when they are looked at; inputs are read once, since no call changes them."""
        found: dict[str, Array] = {}
        for operand in self.operands:
            if operand.role not in roles:
                continue
            if operand.role == "in" and operand.name in self._copies:
                found[operand.name] = self._copies[operand.name]
                continue
            source = self.buffers[operand.name]
            shape = dtypes.stored_shape(operand.shape, operand.dtype)
            found[operand.name] = host_copy(self.device, source, dtypes.storage(operand.dtype), shape)
            if operand.role == "in":
                self._copies[operand.name] = found[operand.name]
        return found

    def poison(self) -> None:
        """Outputs to NaN (all ones) or, for integers, a pattern; inout operands anew."""
        for operand in self.operands:
            if operand.role == "out":
                self.device.fill(self.buffers[operand.name], 0xFF if operand.dtype in dtypes.ROUNDOFF else 0xA5)
            elif operand.role == "inout":
                self._fill(operand)
        self.device.synchronize()

    def arrive(self, turn: int = 0) -> None:
        """Queue the copies to the device that the call of this turn needs."""
        for name in self.arriving:
            to, source = (self.part(buffers, name, turn) for buffers in (self.buffers, self.pinned))
            self.device.copy(to, source, to.nbytes)

    def leave(self) -> None:
        """Queue the copies to the host."""
        for name in self.leaving:
            self.device.copy(self.pinned[name], self.buffers[name], self.buffers[name].nbytes)

    def _fill(self, operand: Operand) -> None:
        recipe, buffer = operand.recipe, self.buffers[operand.name]
        if not math.prod(operand.shape):
            return
        if recipe.distribution == "host":
            self.device.write(buffer, self.problem.host_input(operand.name))
            return
        fill_operand(self.session, operand, buffer)

    def send_home(self) -> None:
        """Queue the way back to the host for what is managed, so that the next call has to fetch it."""
        for buffer in self.buffers.values():
            if buffer.memory == "managed":
                self.device.prefetch(buffer, False)

    def close(self) -> None:
        """Give everything back."""
        for buffer in (*self.buffers.values(), *self.pinned.values()):
            self.device.free(buffer)
        self.buffers, self.pinned = {}, {}


def fill_operand(session: CudaSession, operand: Operand, buffer: Buffer) -> None:
    """Queue the fill of a buffer by an operand's recipe, which must not be `host`. Words of a cycle are addresses."""
    recipe = operand.recipe
    if recipe.distribution == "cycle":
        dims = [*operand.shape, *Cycle(operand.shape[1], recipe.seed).constants()]
        session.launch("fill", "any", [buffer.pointer], dims, op="cycle")
        return
    if recipe.distribution == "quantized":
        _fill_quantised(session, operand, buffer)
        return
    dims = [math.prod(operand.shape), recipe.seed, BITS[operand.dtype], fill_kind(operand)]
    session.launch("fill", "any", [buffer.pointer], dims, (recipe.low, recipe.high))


def fill_kind(operand: Operand) -> int:
    """What csrc/cuda/fill.cu stores: its fill_kind."""
    if operand.recipe.distribution == "integers":
        return 3 if operand.dtype in ("fp64", "fp32") else 1
    return 2 if operand.dtype == "bf16" else 0


def _fill_quantised(session: CudaSession, operand: Operand, buffer: Buffer) -> None:
    """Random bytes, then scale and bias at the end of every row, as `random.array` has them."""
    recipe, (rows, width) = operand.recipe, operand.shape
    whole = Operand(operand.name, "in", operand.shape, "uint8", Recipe("integers", recipe.seed, 0, 256))
    fill_operand(session, whole, buffer)
    period = min(rows, random.TAIL_PERIOD)
    own = Recipe("uniform", recipe.seed + 1, recipe.low, recipe.high)
    values = random.values(own, "fp32", np.arange(2 * period))
    tails = session.device.alloc(values.nbytes)
    session.device.write(tails, values)
    session.launch("fill", "any", [buffer.pointer, tails.pointer], [rows, width, period], op="tails")
    session.device.synchronize()
    session.device.free(tails)


def calls_of_launch(problem: Problem) -> int:
    """Calls that a launch of one pass comes to."""
    return int(getattr(problem, "parts", 1)) if problem.kernel in WHOLE else 1


class HotRows:
    """G5: the rows looked up most, in device memory, and for every row its slot there or -1.

    Its kernels take two more pointers, the last two of the parameter block: slots (int32, one per row), cached rows."""

    def __init__(self, operands: Operands, percent: int) -> None:
        self.device = operands.device
        table = next(o for o in operands.operands if o.name == operands.table)
        indices = operands.read("in")["indices"]
        total, row_bytes = table.shape[0], operands.buffers[table.name].nbytes // table.shape[0]
        counts = np.bincount(indices.ravel(), minlength=total)
        self.rows = max(1, total * percent // 100)
        hot = np.sort(np.argsort(-counts, kind="stable")[: self.rows])
        self.hit_share = float(counts[hot].sum() / max(1, counts.sum()))
        slots = np.full(total, -1, np.int32)
        slots[hot] = np.arange(self.rows, dtype=np.int32)
        rows = operands.read("in")[table.name].reshape(total, -1)[hot]
        self.buffers = [self.device.alloc(slots.nbytes), self.device.alloc(self.rows * row_bytes)]
        for buffer, array in zip(self.buffers, (slots, rows), strict=True):
            self.device.write(buffer, array)

    def pointers(self, pointers: list[int]) -> list[int]:
        """All pointers of the parameter block."""
        return [*pointers, *[0] * (POINTERS - 2 - len(pointers)), *(buffer.pointer for buffer in self.buffers)]

    def close(self) -> None:
        """Give both buffers back."""
        for buffer in self.buffers:
            self.device.free(buffer)


def _bytes(operand: Operand) -> int:
    return max(1, dtypes.stored_bytes(operand.shape, operand.dtype))
