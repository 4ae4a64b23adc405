"""Compiles `csrc/cuda/*.cu` at run time to a cubin for one named architecture, and keeps it in a cache.

The route is `cuda.core` over NVRTC: it needs no driver and no device, so the same path runs in a test without a GPU.
ptxas runs inside NVRTC; its figures (registers, spills, shared memory) are stored beside each cubin under the same key,
because a cache hit compiles nothing and so has no log. Nothing here imports CUDA packages until a function is called.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pykernels.errors import PykernelsError

#: part of the key: raise it when the meaning of a stored file changes
CACHE_FORMAT = 2
STANDARD = "c++17"

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_ENTRY_LINE = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_STACK_LINE = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED_LINE = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


class CompileError(PykernelsError):
    """NVRTC refused a source, or knows no architecture that the device runs."""


class MissingPackage(PykernelsError):
    """A CUDA package that is needed is not installed; `hint` is the command that mends it."""


class Figures(msgspec.Struct, frozen=True):
    """What ptxas says of an entry: its target, registers a thread, bytes spilled, of stack, of static shared memory."""

    target: str = ""
    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    stack: int = 0
    shared: int = 0


class Cubin(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled source: where it lies, for which architecture, by which NVRTC, and ptxas figures by entry name."""

    path: str
    source: str
    arch: str
    nvrtc: str
    options: tuple[str, ...]
    key: str
    figures: dict[str, Figures]


def sources() -> Path:
    """Folder of the `.cu` files: `csrc/cuda` of a checkout, else `pykernels/cuda_src` of an installed wheel.

    Raises CompileError when neither exists."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "csrc" / "cuda", package / "cuda_src"):
        if (folder / "common.cuh").is_file():
            return folder
    raise CompileError(
        f"no CUDA sources beside {package} (looked for ../csrc/cuda and cuda_src)", hint="reinstall pykernels"
    )


def cache_folder() -> Path | None:
    """Where cubins are kept: PYKERNELS_CUBIN_CACHE ("off": nowhere), else the user's cache folder."""
    chosen = os.environ.get("PYKERNELS_CUBIN_CACHE", "")
    if chosen.lower() in ("off", "0", "no"):
        return None
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pykernels" / "cubin"


def nvrtc_version() -> str:
    """NVRTC's version such as "13.0"; raises MissingPackage."""
    major, minor = _nvrtc_call("nvrtcVersion")
    return f"{major}.{minor}"


def supported_archs() -> tuple[int, ...]:
    """Architectures NVRTC can compile for, as numbers (90 for sm_90), rising; raises MissingPackage."""
    return tuple(sorted(int(arch) for arch in _nvrtc_call("nvrtcGetSupportedArchs")[0]))


def choose_arch(capability: str, supported: Sequence[int], *, accelerated: bool = False) -> str:
    """The architecture to compile for: the greatest supported one of the device's major that is not above it.

    A cubin runs on its own major only, from its minor up. `accelerated` asks for the `a` target, which exists from 9.0
    on, for exactly this device. Raises CompileError when NVRTC is too old (or too new) for the device."""
    major, _, minor = capability.partition(".")
    device = int(major) * 10 + int(minor or 0)
    fits = [arch for arch in supported if arch // 10 == device // 10 and arch <= device]
    if not fits:
        known = ", ".join(str(arch) for arch in supported)
        raise CompileError(
            f"NVRTC {_version_or_unknown()} knows no architecture for a device of compute capability {capability} "
            f"(it knows {known})",
            hint='pip install -U "pykernels[cuda13]"' if device > max(supported) else 'pip install "pykernels[cuda12]"',
        )
    if accelerated and (max(fits) != device or device < 90):
        raise CompileError(f"this kernel needs sm_{device}a, which NVRTC {_version_or_unknown()} does not offer")
    return f"sm_{max(fits)}{'a' if accelerated else ''}"


def compile_source(name: str, arch: str, defines: Sequence[str] = ()) -> Cubin:
    """Compile `csrc/cuda/NAME.cu` for `arch` ("sm_90") or take it from the cache.

    Raises MissingPackage, or CompileError with the first lines of NVRTC's log."""
    return compile_file(sources() / f"{name}.cu", arch, defines)


def compile_file(path: Path, arch: str, defines: Sequence[str] = ()) -> Cubin:
    """`compile_source` for any file."""
    text = read_with_includes(path)
    options = (f"--gpu-architecture={arch}", f"--std={STANDARD}", *(f"-D{define}" for define in defines))
    version = nvrtc_version()
    key = cache_key(text, options, version, arch)
    folder = cache_folder()
    found = _from_cache(folder, key) if folder else None
    if found is not None:
        return found
    code, log = run_nvrtc(path, arch, defines)
    target = folder if folder else Path(tempfile.mkdtemp(prefix="pykernels-cubin-"))
    cubin = Cubin(
        path=str(target / f"{key}.cubin"), source=path.name, arch=arch, nvrtc=version, options=options, key=key,
        figures=ptxas_figures(log),
    )  # fmt: skip
    _store(target, cubin, code)
    return cubin


def run_nvrtc(path: Path, arch: str, defines: Sequence[str] = ()) -> tuple[bytes, str]:
    """(cubin, ptxas log) of one compilation without the cache."""
    program_type, options_type = _cuda_core()
    options = options_type(
        arch=arch, std=STANDARD, include_path=[str(path.parent)], ptxas_options=["-v"], name=path.name,
        define_macro=[tuple(define.split("=", 1)) if "=" in define else define for define in defines] or None,
    )  # fmt: skip
    log = io.StringIO()
    try:
        program = program_type(path.read_text(), "c++", options)
        code = bytes(program.compile("cubin", logs=log).code)
    except Exception as error:  # cuda.core raises its own type, which differs between its releases
        lines = [line for line in f"{error}\n{log.getvalue()}".splitlines() if "error" in line.lower()]
        raise CompileError(f"{path.name} does not compile for {arch}: {' | '.join(lines[:4]) or error}") from error
    return code, log.getvalue()


def cache_key(text: str, options: Iterable[str], nvrtc: str, arch: str) -> str:
    """SHA-256 over everything that can change the code: source with its includes, options, NVRTC, architecture."""
    parts = (f"pykernels-cubin-{CACHE_FORMAT}", nvrtc, arch, *options, text)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_with_includes(path: Path) -> str:
    """The source followed by every quoted include beneath it, each once, for the key."""
    seen: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen[current] = current.read_text()
        waiting += [current.parent / name for name in _INCLUDE.findall(seen[current])]
    return "\n".join(f"// {file.name}\n{text}" for file, text in seen.items())


def ptxas_figures(log: str) -> dict[str, Figures]:
    """Figures by entry name from a `ptxas -v` log."""
    figures: dict[str, Figures] = {}
    name, target, stack = "", "", (0, 0, 0)
    for line in log.splitlines():
        if entry := _ENTRY_LINE.search(line):
            name, target, stack = entry[1], entry[2], (0, 0, 0)
        elif frame := _STACK_LINE.search(line):
            stack = (int(frame[1]), int(frame[2]), int(frame[3]))
        elif name and (used := _USED_LINE.search(line)):
            shared = _SHARED.search(line)
            figures[name] = Figures(target, int(used[1]), stack[1], stack[2], stack[0], int(shared[1]) if shared else 0)
            name = ""
    return figures


def _from_cache(folder: Path, key: str) -> Cubin | None:
    """A stored cubin, or None when absent or unreadable (a damaged pair is compiled again)."""
    try:
        cubin = msgspec.json.decode((folder / f"{key}.json").read_bytes(), type=Cubin)
        whole = cubin.key == key and (folder / f"{key}.cubin").stat().st_size > 0
    except (OSError, msgspec.MsgspecError):
        return None
    return msgspec.structs.replace(cubin, path=str(folder / f"{key}.cubin")) if whole else None


def _store(folder: Path, cubin: Cubin, code: bytes) -> None:
    """Write code, then figures, each by an atomic rename: a reader sees a whole pair or none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ((f"{cubin.key}.cubin", code), (f"{cubin.key}.json", msgspec.json.encode(cubin))):
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(data)
            Path(file.name).replace(folder / name)
    except OSError as error:
        raise CompileError(
            f"cannot write the cubin cache {folder}: {error.strerror}",
            hint="set PYKERNELS_CUBIN_CACHE to a folder or off",
        ) from error


def _version_or_unknown() -> str:
    try:
        return nvrtc_version()
    except PykernelsError:
        return "(not installed)"


@cache
def _cuda_core() -> tuple[Any, Any]:
    """(Program, ProgramOptions) of cuda.core, whose name was `cuda.core.experimental` before its 0.5."""
    try:
        from cuda.core import Program, ProgramOptions
    except ImportError:
        try:
            from cuda.core.experimental import Program, ProgramOptions
        except ImportError as error:
            raise MissingPackage(
                f"cuda.core is not installed ({error})", hint='pip install "pykernels[cuda12]"'
            ) from error
    return Program, ProgramOptions


def _nvrtc_call(function: str) -> tuple[Any, ...]:
    """Results of an NVRTC query through cuda.bindings, without its status."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise MissingPackage(
            f"cuda.bindings is not installed ({error})", hint='pip install "pykernels[cuda12]"'
        ) from error
    try:
        status, *results = getattr(nvrtc, function)()
    except Exception as error:  # the library is looked for at the first call; each release raises another type
        raise MissingPackage(
            f"NVRTC is not installed ({_first_line(error)})", hint=f"pip install {_nvrtc_wheel()}"
        ) from error
    if int(status) != 0:
        raise CompileError(f"{function} failed with status {int(status)}")
    return tuple(results)


def _nvrtc_wheel() -> str:
    """The wheel that matches the installed cuda.bindings."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "nvidia-cuda-nvrtc-cu12" if version("cuda-bindings").startswith("12") else "nvidia-cuda-nvrtc"
    except PackageNotFoundError:
        return "nvidia-cuda-nvrtc"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
