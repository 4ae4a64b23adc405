#!/usr/bin/env bash
# Measures everything a GPU machine can show, the most useful first, within a budget of minutes, and leaves at most 8 files.
#   tests/gpu/evidence.sh [--budget MINUTES] [--wheels FOLDER] [--out FOLDER] [--python PYTHON] [--dry-run]
# --dry-run prints the steps in order, each with the least and most seconds it gets, and what is missing here; it installs
# nothing, and ends with status 3 where there is no GPU.
# Works offline: with --wheels it installs from that folder only; without, from the index. Uses whichever CuPy is there, else
# the one of the driver's CUDA. Any Python from 3.11 on, a system's or a venv's; it gets a venv of its own, removed at the end.
# The first 3 minutes already leave a usable run file (first.jsonl). Nothing of the card is reconfigured.
# Status: 0 all steps done; 1 a step failed or was left out; 2 bad option; 3 no usable GPU, or pykernels cannot be installed.
set -u
budget=9 wheels="" out=evidence python=python3 dry=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=1; shift; continue ;;
    --budget | --wheels | --out | --python) [ $# -gt 1 ] || { echo "$1 needs a value"; exit 2; } ;;
    *) echo "unknown option $1"; exit 2 ;;
  esac
  case "$1" in
    --budget) budget=$2 ;; --wheels) wheels=$2 ;; --out) out=$2 ;; --python) python=$2 ;;
  esac
  shift 2
done
case "$budget" in '' | *[!0-9]*) echo "--budget $budget: write whole minutes"; exit 2 ;; esac
[ -z "$wheels" ] || wheels=$(cd "$wheels" 2>/dev/null && pwd) || { echo "--wheels: there is no such folder"; exit 2; }
case "$python" in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
[ -n "$dry" ] || { mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2; }
cd "$(dirname "$0")/../.." || exit 2
end=$((SECONDS + budget * 60)) troubles=()
left() { echo $((end - SECONDS)); }

# Runs a step if enough time is left; output goes to a file, its last lines to the screen.
step() {  # name, least seconds, most seconds, file, command...
  local name=$1 least=$2 most=$3 file=$4 time status
  shift 4
  if [ -n "$dry" ]; then echo "step: $name (from $least to $most s) -> $file"; return; fi
  time=$(left)
  if [ "$time" -lt "$least" ]; then
    echo "-- $name: left out ($time s left, needs $least)"; troubles+=("$name: left out"); return
  fi
  echo "== $name ($time s left)"
  timeout -k 10 $((time < most ? time : most)) "$@" >>"$out/$file" 2>&1; status=$?
  tail -n 3 "$out/$file"
  [ $status = 0 ] || { echo "!! $name ended with status $status"; troubles+=("$name: status $status"); }
}
has() { "$1" -P -c "import importlib.util as u, sys; sys.exit(u.find_spec('$2') is None)" 2>/dev/null; }
missing() {  # python
  local need
  for need in pykernels cupy cuda.core cuda.bindings numba_cuda pynvml cuda.bench pytest; do
    has "$1" "$need" || echo "missing: $need"
  done
  for need in nvidia-smi compute-sanitizer ncu g++; do command -v $need >/dev/null || echo "missing: $need"; done
}
# The CUDA major to install CuPy for: the driver's, unless the folder holds the other one's wheel only.
cuda_major() {
  local driver major
  driver=$("$python" -c 'import ctypes
try: version = ctypes.c_int(); ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)); print(version.value // 1000)
except OSError: print(13)')
  [ "$driver" -ge 13 ] && driver=13 || driver=12
  for major in $driver 12; do
    if [ -z "$wheels" ] || compgen -G "$wheels/cupy_cuda${major}x-*" >/dev/null; then echo "$major"; return; fi
  done
  echo "$driver"
}
# A venv that sees what the given Python sees, be that one in a venv itself.
make_venv() {
  local parent site
  "$python" -m venv --system-site-packages "$venv" 2>/dev/null || "$python" -m venv --system-site-packages --without-pip --clear "$venv" ||
    { echo "$python makes no venv (python3-venv missing?)"; return 1; }
  site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  parent=$("$python" -c 'import sys, sysconfig; print(sysconfig.get_path("purelib") if sys.prefix != sys.base_prefix else "")')
  if [ -z "$parent" ] || [ "$parent" = "$site" ]; then return; fi
  echo "import site; site.addsitedir('$parent')" >"$site/parent.pth"
  [ ! -d "$parent/nvidia" ] || ln -s "$parent/nvidia" "$site/nvidia" # where CUDA's own search looks
}
install() {
  local extra="" source=()
  [ -z "$wheels" ] || source=(--no-index --find-links "$wheels")
  has "$py" cupy || extra="[cuda$(cuda_major)]"
  local pip=("$py" -m pip install -q --disable-pip-version-check "${source[@]}")
  "${pip[@]}" --no-build-isolation ".$extra" || "${pip[@]}" ".$extra" || "${pip[@]}" --no-build-isolation --no-deps .
  local need
  for need in pytest:pytest cuda.core:cuda-core cuda.bindings:cuda-bindings pynvml:nvidia-ml-py numba_cuda:numba-cuda cuda.bench:cuda-bench; do
    has "$py" "${need%%:*}" || "${pip[@]}" "${need##*:}"
  done
}

echo "== what is here"
venv="$out/.venv" py="$out/.venv/bin/python"
why_none='from pykernels.machine.gpu import why_none; import sys; r = why_none(); print(r); sys.exit(bool(r))'
usable=yes
if [ -n "$dry" ]; then
  missing "$python"
  command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 || usable=""
else
  trap 'rm -rf "$venv"' EXIT
  make_venv || exit 3
  install >"$out/check.txt" 2>&1
  missing "$py" | tee -a "$out/check.txt"
  "$py" -P -c 'import pykernels._core' || { tail -n 5 "$out/check.txt"; echo "pykernels could not be installed: see check.txt"; exit 3; }
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit,mig.mode.current --format=csv \
    >>"$out/check.txt" 2>&1
  "$venv/bin/pykernels" check >>"$out/check.txt" 2>&1
  "$py" -P -c "$why_none" || { echo "no usable GPU: nothing to measure"; exit 3; }
  echo "ready after $SECONDS s"
fi

# 1. Correct first, then the roofs that everything is judged by. The tests need no configuration but their own folder.
step "verify every kernel" 20 150 tests.txt "$py" -P -m pytest -q --maxfail=20 -c /dev/null --rootdir tests/gpu \
  --confcutdir tests/gpu -p no:cacheprovider -p no:pykernels tests/gpu
step "memory, L2, link, launch, lookups" 30 160 run.txt "$venv/bin/pykernels" run gpu-first --no-picture \
  -o "$out/first.jsonl"
# 2. Everything, as long as there is time, less what the steps after it need.
rest=$(($(left) - 110)); [ $rest -lt 60 ] && rest=60
step "the whole sweep" 60 $((rest + 30)) run.txt "$venv/bin/pykernels" run gpu --no-picture --budget "$rest s" -o "$out/gpu.jsonl"
# 3. The host, an independent clock, the sanitizer, the counters.
step "the host's CPU" 30 60 run.txt "$venv/bin/pykernels" run quick -k @cpu --no-picture --budget "40 s" -o "$out/host.jsonl"
cd tests/gpu || exit 2
step "an independent clock (within 2%)" 10 40 tests.txt "$py" one_kernel.py bench
if [ -n "$dry" ] || command -v compute-sanitizer >/dev/null; then
  step "compute-sanitizer on small shapes" 20 60 tests.txt \
    compute-sanitizer --tool memcheck --error-exitcode 1 "$py" one_kernel.py tiny
fi
if [ -n "$dry" ] || command -v ncu >/dev/null; then
  step "DRAM bytes by counters" 20 40 counters.txt ncu --csv --print-units base --kernel-name regex:stream__copy \
    --launch-skip 1 --launch-count 1 --metrics dram__bytes_read.sum,dram__bytes_write.sum "$py" one_kernel.py copy
  step "they agree with traffic() (within 5%)" 1 10 tests.txt "$py" counters.py "$out/counters.txt"
fi
cd ../..
step "the kernels under their roofs" 3 20 run.txt "$venv/bin/pykernels" kernels "$out/gpu.jsonl"
if [ -n "$dry" ]; then
  [ -n "$usable" ] || { echo "no usable GPU here (nvidia-smi lists none): nothing could be measured"; exit 3; }
  exit 0
fi
rm -rf "$venv"
find "$out" -type f -size +15M -exec gzip -9 {} +
echo "== files (at most 8, each under 16 MiB)"
ls -l "$out"
too_large=$(find "$out" -type f -size +16383k)
if [ -n "$too_large" ] || [ "$(find "$out" -type f | wc -l)" -gt 8 ]; then troubles+=("too many files, or too large"); fi
[ ${#troubles[@]} = 0 ] || { printf '!! %s\n' "${troubles[@]}"; exit 1; }
echo "all steps done after $SECONDS s"
