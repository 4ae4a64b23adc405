"""GPUs as their driver states them, and their sensors. Reads only; nothing here raises for a missing driver, library or
permission.

Devices come from `libcuda.so.1` itself (no context is made), so their order is the one CUDA programs see, under
CUDA_VISIBLE_DEVICES too, and a MIG slice is the device it is to a program. Sensors come from NVML by PCI bus id.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import msgspec

from pykernels.errors import unknown
from pykernels.model import Check, Gpu, Machine
from pykernels.units import format_size

_MULTIPROCESSORS, _CLOCK_KHZ, _L2_BYTES, _CC_MAJOR, _CC_MINOR = 16, 13, 38, 75, 76
_MIG = re.compile(r"\bMIG ([0-9]+c?\.?[\w.]+)")
_ERRORS = {
    34: "the driver is a stub library", 100: "the driver sees no device",
    802: "the driver is not ready (fabric manager not running?)",
    803: "driver library and kernel module differ in version", 804: "this driver does not support the device",
    999: "the driver cannot be started (unknown error)",
}  # fmt: skip


def read_gpus(library: str = "libcuda.so.1") -> tuple[Gpu, ...]:
    """The GPUs that a CUDA program started here would see, in its order; empty where there is none."""
    cuda, _ = _open_driver(library)
    if cuda is None:
        return ()
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_read_gpu(cuda, index, driver) for index in range(count.value))


def why_none(library: str = "libcuda.so.1") -> str:
    """Why there is no usable GPU, or "" where there is one."""
    cuda, reason = _open_driver(library)
    if cuda is None:
        return reason
    return "" if read_gpus(library) else "the driver sees no device"


def _open_driver(library: str) -> tuple[Any, str]:
    """(libcuda, "") started, or (None, the reason)."""
    try:
        cuda = ctypes.CDLL(library)
        status = cuda.cuInit(0)
    except (OSError, AttributeError):
        return None, f"no NVIDIA driver ({library} cannot be loaded)"
    if status != 0:
        return None, _ERRORS.get(status, f"the driver cannot be started (CUDA error {status})")
    return cuda, ""


def _read_gpu(cuda: Any, index: int, driver: str) -> Gpu:
    """One device; a figure the driver does not give stays 0."""
    handle, name, memory = ctypes.c_int(0), ctypes.create_string_buffer(128), ctypes.c_size_t(0)
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)

    def attribute(number: int) -> int:
        value = ctypes.c_int(0)
        return value.value if cuda.cuDeviceGetAttribute(ctypes.byref(value), number, handle) == 0 else 0

    text = name.value.decode(errors="replace")
    mig = _MIG.search(text)
    return Gpu(
        index=index, name=text, memory_bytes=memory.value, sms=attribute(_MULTIPROCESSORS),
        compute_capability=f"{attribute(_CC_MAJOR)}.{attribute(_CC_MINOR)}", l2_bytes=attribute(_L2_BYTES),
        clock_mhz=attribute(_CLOCK_KHZ) / 1e3, mig=mig[1] if mig else "", driver=driver,
    )  # fmt: skip


def find(machine: Machine, device: str) -> Gpu | None:
    """The GPU that "gpu:N" names on this machine, or None; raises UsageError where the name is not of that form."""
    match = re.fullmatch(r"gpu:(\d+)", device)
    if not match:
        raise unknown("device", device, [f"gpu:{gpu.index}" for gpu in machine.gpus] or ["gpu:0"])
    return next((gpu for gpu in machine.gpus if gpu.index == int(match[1])), None)


# ------------------------------------------------------------------------------------------------------------- sensors

#: NVML clock event reasons that lower a clock (nvml.h); idle and user settings are not throttling
THROTTLES = {
    0x04: "software power cap", 0x08: "hardware slowdown", 0x10: "sync boost", 0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown", 0x80: "hardware power brake",
}  # fmt: skip


def _parent(process: int) -> int:
    """The parent of a process, 0 where it cannot be read."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sensors say now; None where one is absent or not permitted, `missing` why all are. Energy counts from
    the driver's start."""

    sm_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    throttle: tuple[str, ...] = ()
    ecc: bool | None = None
    others: int = 0
    missing: str = ""


class Sensors:
    """NVML for one device by PCI bus id ("0000:17:00.0"); every reading is optional and nothing raises."""

    def __init__(self, bus_id: str, nvml: Any = None) -> None:
        self.reason = ""
        self._nvml, self._handle = nvml, None
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByPciBusId(bus_id.encode())
        except ImportError:
            self.reason = "nvidia-ml-py is not installed"
        except Exception as error:  # NVML's own error type, which needs NVML to name it
            self.reason = f"NVML: {error}"

    def read(self) -> Reading:
        """All sensors once."""
        if self._handle is None:
            return Reading(missing=self.reason)
        mask = self._call("nvmlDeviceGetCurrentClocksEventReasons") or self._call(
            "nvmlDeviceGetCurrentClocksThrottleReasons"
        )
        ecc = self._call("nvmlDeviceGetEccMode")
        return Reading(
            sm_mhz=self._scaled("nvmlDeviceGetClockInfo", 1.0, 1),
            power_w=self._scaled("nvmlDeviceGetPowerUsage", 1e-3),
            power_limit_w=self._scaled("nvmlDeviceGetEnforcedPowerLimit", 1e-3),
            temperature_c=self._scaled("nvmlDeviceGetTemperature", 1.0, 0),
            energy_j=self._scaled("nvmlDeviceGetTotalEnergyConsumption", 1e-3),
            throttle=tuple(name for bit, name in THROTTLES.items() if int(mask or 0) & bit),
            ecc=bool(ecc[0]) if ecc else None,
            others=self.others(),
        )

    def others(self) -> int:
        """Compute processes of other programs on the device: neither this one nor its siblings, the other workers of a
        run. 0 in a container, where NVML's numbers of processes are the host's and name nobody here."""
        import os

        processes = {process.pid for process in self._call("nvmlDeviceGetComputeRunningProcesses") or []}
        if os.getpid() not in processes:  # it computes here, so they are numbers of another namespace
            return 0
        return sum(_parent(number) != os.getppid() for number in processes - {os.getpid()})

    def _call(self, function: str, *arguments: int) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle, *arguments)
        except Exception:  # absent function, missing permission, MIG slice, lost device: the reading is absent
            return None

    def _scaled(self, function: str, factor: float, *arguments: int) -> float | None:
        value = self._call(function, *arguments)
        return None if value is None else float(value) * factor


def busy(nvml: Any = None) -> list[Check]:
    """What `pykernels check` says of NVML: why it cannot be read, or each GPU that other processes compute on."""
    import os

    try:
        if nvml is None:
            import pynvml

            nvml = pynvml
        nvml.nvmlInit()
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index))
            others = sum(process.pid != os.getpid() for process in processes)
            if others:
                noun = "process computes" if others == 1 else "processes compute"
                found.append(Check("warn", f"NVML device {index}", f"{others} other {noun} on it", "nvidia-smi"))
        return found
    except ImportError:
        return []  # `checks` names the package
    except Exception as error:  # NVML's own error type
        return [Check("warn", "NVML", f"no clocks, power or throttle reasons: {error}", "nvidia-smi -q")]


def checks(machine: Machine, library: str = "libcuda.so.1") -> list[Check]:
    """Findings of `pykernels check`: each GPU, or why none is usable, what is missing to drive it, who else uses it."""
    from importlib.util import find_spec

    if not machine.gpus:
        seen = Path("/proc/driver/nvidia/gpus").is_dir()
        hint = (
            "install the NVIDIA driver's user library, or pass the GPU into the container (--gpus all)" if seen else ""
        )
        return [Check("skip", "gpu", why_none(library) or "the machine was read without its GPUs", hint)]
    found = []
    for gpu in machine.gpus:
        mig = f", MIG slice {gpu.mig}" if gpu.mig else ""
        memory, name = format_size(gpu.memory_bytes), f"gpu:{gpu.index}"
        found.append(Check("ok", name, f"{gpu.name}{mig}, {gpu.sms} SMs, {memory}, {gpu.driver}"))
    wheel = (
        'pip install "pykernels[cuda12]"'
        if machine.gpus[0].driver.startswith("CUDA 12")
        else 'pip install "pykernels[cuda13]"'
    )
    for module, name in (("cupy", "CuPy"), ("cuda.core", "cuda-core"), ("pynvml", "nvidia-ml-py")):
        try:
            present = find_spec(module) is not None
        except ModuleNotFoundError:
            present = False
        if not present:
            found.append(Check("warn" if module == "pynvml" else "skip", "gpu", f"{name} is not installed", wheel))
    return found + busy()
