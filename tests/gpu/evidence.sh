#!/usr/bin/env bash
# Measures everything a GPU machine can show, the most useful first, within a budget of minutes, and leaves at most 8 files.
#   tests/gpu/evidence.sh [--budget MINUTES] [--wheels FOLDER] [--out FOLDER] [--python PYTHON] [--dry-run]
# --dry-run prints the steps in order, each with the least time it needs, and what is missing here; it installs nothing.
# Works offline: with --wheels it installs from that folder only; without, from the index. Uses whichever CuPy is there.
# The first 3 minutes already leave a usable run file (first.jsonl). Nothing of the card is reconfigured.
set -u
budget=9 wheels="" out=evidence python=python3 dry=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=1; shift; continue ;;
    --budget) budget=$2 ;; --wheels) wheels=$2 ;; --out) out=$2 ;; --python) python=$2 ;;
    *) echo "unknown option $1"; exit 2 ;;
  esac
  shift 2
done
cd "$(dirname "$0")/../.." || exit 2
[ -n "$dry" ] || { mkdir -p "$out" && out=$(cd "$out" && pwd); }
end=$((SECONDS + budget * 60))
left() { echo $((end - SECONDS)); }
# Runs a step if enough time is left; output goes to a file, its last lines to the screen.
step() {  # name, least seconds, file, command...
  local name=$1 least=$2 file=$3; shift 3
  if [ -n "$dry" ]; then echo "step: $name (at least $least s) -> $file"; return; fi
  if [ "$(left)" -lt "$least" ]; then echo "-- $name: left out ($(left) s left, needs $least)"; return; fi
  echo "== $name ($(left) s left)"
  timeout "$(left)" "$@" >>"$out/$file" 2>&1; local status=$?
  tail -n 3 "$out/$file"
  [ $status = 0 ] || echo "!! $name ended with status $status"
}

echo "== what is here"
missing() {  # python
  for need in pykernels cupy cuda.core cuda.bindings numba_cuda pynvml cuda.bench pytest; do
    "$1" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$need') is None)" 2>/dev/null || echo "missing: $need"
  done
  for tool in nvidia-smi compute-sanitizer ncu g++; do command -v $tool >/dev/null || echo "missing: $tool"; done
}
venv="$out/.venv" py="$out/.venv/bin/python"
if [ -n "$dry" ]; then
  missing "$python"
else
  "$python" -m venv --system-site-packages "$venv" || exit 2
  source=(); [ -n "$wheels" ] && source=(--no-index --find-links "$wheels")
  "$py" -m pip install -q "${source[@]}" --no-build-isolation . >"$out/check.txt" 2>&1 ||
    "$py" -m pip install -q "${source[@]}" . >>"$out/check.txt" 2>&1
  "$py" -m pip install -q "${source[@]}" pytest hypothesis >>"$out/check.txt" 2>&1
  missing "$py" | tee -a "$out/check.txt"
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit,mig.mode.current --format=csv \
    >>"$out/check.txt" 2>&1
  "$venv/bin/pykernels" check >>"$out/check.txt" 2>&1
  "$py" -c 'from pykernels.machine.gpu import why_none; import sys; r = why_none(); print(r); sys.exit(bool(r))' ||
    { echo "no usable GPU: nothing to measure"; rm -rf "$venv"; exit 3; }
fi

# 1. Correct first, then the roofs that everything is judged by.
step "verify every kernel" 20 tests.txt "$py" -m pytest -q -x -p no:cacheprovider tests/gpu
step "memory, L2, link, launch, lookups" 30 run.txt "$venv/bin/pykernels" run sweeps/gpu-first.toml --no-picture \
  -o "$out/first.jsonl"
# 2. Everything, as long as there is time.
rest=$(($(left) - 130)); [ $rest -lt 60 ] && rest=60
step "the whole sweep" 60 run.txt "$venv/bin/pykernels" run sweeps/gpu.toml --no-picture --budget "$rest s" -o "$out/gpu.jsonl"
# 3. The host, an independent clock, the sanitizer, the counters.
step "the host's CPU" 60 run.txt "$venv/bin/pykernels" run quick --no-picture -o "$out/host.jsonl"
cd tests/gpu || exit 2
step "an independent clock (within 2%)" 10 tests.txt "$py" one_kernel.py bench
if [ -n "$dry" ] || command -v compute-sanitizer >/dev/null; then
  step "compute-sanitizer on small shapes" 20 tests.txt \
    compute-sanitizer --tool memcheck --error-exitcode 1 "$py" one_kernel.py tiny
fi
if [ -n "$dry" ] || command -v ncu >/dev/null; then
  step "DRAM bytes by counters" 20 counters.txt ncu --csv --print-units base --kernel-name regex:stream__copy \
    --launch-skip 1 --launch-count 1 --metrics dram__bytes_read.sum,dram__bytes_write.sum "$py" one_kernel.py copy
  step "they agree with traffic() (within 5%)" 1 tests.txt "$py" counters.py "$out/counters.txt"
fi
cd ../..
step "the roofline" 5 run.txt "$venv/bin/pykernels" roofline "$out/gpu.jsonl"
[ -n "$dry" ] && exit 0
rm -rf "$venv"
find "$out" -type f -size +15M -exec gzip -9 {} +
echo "== files (at most 8, each under 16 MiB)"
ls -l "$out"
too_large=$(find "$out" -type f -size +16384k)
[ -z "$too_large" ] && [ "$(find "$out" -type f | wc -l)" -le 8 ] || { echo "!! too many files, or too large"; exit 1; }
