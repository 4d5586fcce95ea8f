#!/usr/bin/env bash
# What a GPU machine is asked: do the tests pass there, and how fast is the penalty against stock?
#
# Uses the machine's own python3 (PYTHON=...) and installs nothing. A step that fails or runs out of its
# time does not stop the later ones; the exit code says whether any did. At most 9 minutes in all.
#   OUT=folder               where the JSON files go (benchmarks/results)
#   WGANGP_FAST_DEVICE=cpu   rehearse without a GPU
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
device=${WGANGP_FAST_DEVICE:-cuda}
out=${OUT:-benchmarks/results}
export PYTHONPATH=. PYTHONUNBUFFERED=1

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "make gpu: $python sees no CUDA device through torch (WGANGP_FAST_DEVICE=cpu rehearses without one)"
  exit 1
fi
mkdir -p "$out"

names=() codes=() walls=()
step() { # step NAME SECONDS COMMAND...
  local name=$1 seconds=$2 begin=$SECONDS code
  shift 2
  echo "== $name: $*"
  timeout --kill-after=5 "$seconds" "$@"
  code=$?
  names+=("$name") codes+=("$code") walls+=($((SECONDS - begin)))
}

step environment 40 "$python" -m wgangp_fast.bench --environment --device "$device" \
  --out "$out/environment-$device.json"
# On CUDA the variable stays unset, so that the tests iterate over both devices.
if [ "$device" = cuda ]; then unset WGANGP_FAST_DEVICE; fi
# Threads that spin while they wait cost the tests time; the benchmark keeps the default.
step tests 270 env OMP_WAIT_POLICY=passive "$python" -m pytest tests -q -p no:cacheprovider
step penalty 220 "$python" -m wgangp_fast.bench --suite penalty --device "$device" --preset quick --memory \
  --out "$out/penalty-$device.json"

# 124 and 137 are timeout's codes.
printf '\n%-14s %-10s %6s\n' step result wall_s
failed=0 rows=
for i in "${!names[@]}"; do
  case ${codes[i]} in
    0) result=ok ;;
    124 | 137) result=timed-out ;;
    *) result="failed(${codes[i]})" ;;
  esac
  [ "$result" = ok ] || failed=1
  printf '%-14s %-10s %6d\n' "${names[i]}" "$result" "${walls[i]}"
  rows+="${rows:+, }{\"step\": \"${names[i]}\", \"exit_code\": ${codes[i]}, \"wall_s\": ${walls[i]}}"
done
echo "{\"device\": \"$device\", \"steps\": [$rows]}" >"$out/steps-$device.json"
exit $failed
