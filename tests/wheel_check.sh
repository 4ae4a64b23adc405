#!/usr/bin/env bash
# Builds the wheel and proves what the README promises of it: size, contents, oldest glibc, and that it installs and
# measures in a fresh venv on a PATH with no compiler, cmake or ninja.
# usage: tests/wheel_check.sh [WHEEL]   (without WHEEL it builds one with the running python3)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
oldest_glibc=2.34   # README: "glibc 2.34 or newer"
python=${PYTHON:-python3}

wheel=${1:-}
if [ -z "$wheel" ]; then
  begin=$(date +%s)
  "$python" -m pip wheel -q --no-deps -w "$work/dist" "$root"
  echo "wheel built in $(( $(date +%s) - begin )) s"
  wheel=$(ls "$work"/dist/*.whl)
fi

bytes=$(stat -c %s "$wheel")
echo "wheel $(basename "$wheel"): $bytes bytes"
[ "$bytes" -lt 5000000 ] || { echo "FAIL: the wheel is over 5 MB"; exit 1; }

"$python" -m zipfile -l "$wheel" > "$work/names"
for part in pykernels/sweeps/quick.toml pykernels/py.typed pykernels/data/hardware.csv pykernels/_native/ pykernels/_core; do
  grep -q "$part" "$work/names" || { echo "FAIL: $part is not in the wheel"; exit 1; }
done

"$python" -m zipfile -e "$wheel" "$work/open"
newest=$(find "$work/open" -name '*.so*' -exec objdump -T {} + 2>/dev/null \
  | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1 | sed 's/GLIBC_//')
echo "newest glibc symbol: ${newest:-none}; claimed: $oldest_glibc"
[ "$(printf '%s\n%s\n' "$newest" "$oldest_glibc" | sort -V | tail -n 1)" = "$oldest_glibc" ] \
  || { echo "FAIL: a symbol is newer than glibc $oldest_glibc"; exit 1; }
if find "$work/open" -name '*.so*' -exec objdump -T {} + 2>/dev/null | grep -q 'GOMP_'; then
  echo "FAIL: a library needs an OpenMP runtime"; exit 1
fi

# A PATH with the shell's basics and no compiler: what a lab machine has.
mkdir "$work/bin"
for tool in sh bash env cat ls grep sed uname mktemp rm; do ln -s "$(command -v $tool)" "$work/bin/$tool"; done
"$python" -m venv "$work/venv"
export PATH="$work/venv/bin:$work/bin"
for tool in cc gcc g++ clang cmake ninja; do
  if command -v $tool >/dev/null; then echo "FAIL: $tool is on the PATH of this check"; exit 1; fi
done
"$work/venv/bin/pip" install -q "$wheel"
cd "$work"
pykernels --version
pykernels machine > machine.txt
pykernels run quick -k "level=L1" --launches 2 -o first.jsonl --quiet > first.txt
grep -q 'GB/s' first.txt || { echo "FAIL: no figure in the table"; cat first.txt; exit 1; }
pykernels roofline first.jsonl --json > roofline.json
python - <<'PY'
import json
roofs = json.load(open("roofline.json"))["roofs"]
assert roofs and all(0 < roof["low"] <= roof["value"] <= roof["high"] for roof in roofs), roofs
print(f"{len(roofs)} roofs measured from the wheel, no compiler on the PATH")
PY
echo "wheel check passed"
