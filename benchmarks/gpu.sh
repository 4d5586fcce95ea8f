#!/usr/bin/env bash
# What a GPU machine is asked: does it build there, do the tests pass, are the kernels clean, how fast are they?
#
# Uses the machine's own python3 (PYTHON=...) with its torch, triton and nvcc, builds in place and installs
# nothing. A step that fails or runs out of its time does not stop the later ones; the exit code says whether
# any did. Within 9 minutes for each part; the second finds what the first built.
#   PART=tests|bench|all     the tests and sanitizers; the benchmarks; both, cut to the same 9 minutes (all)
#   OUT=folder               where the results go (benchmarks/results)
#   WGANGP_FAST_DEVICE=cpu   rehearse without a GPU: the same steps, on the CPU
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
device=${WGANGP_FAST_DEVICE:-cuda}
out=${OUT:-benchmarks/results}
part=${PART:-all}
case $part in tests | bench | all) ;; *) echo "make gpu: PART must be tests, bench or all; got $part" && exit 2 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=. PYTHONUNBUFFERED=1

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "make gpu: $python sees no CUDA device through torch (WGANGP_FAST_DEVICE=cpu rehearses without one)"
  exit 1
fi
mkdir -p "$out"
architecture=
if [ "$device" = cuda ]; then
  architecture=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
  # On CUDA the variable stays unset, so that the tests iterate over both devices.
  unset WGANGP_FAST_DEVICE
fi

names=() codes=() walls=() began=$SECONDS
step() { # step NAME SECONDS COMMAND...
  local name=$1 seconds=$2 begin=$SECONDS code left=$((540 - SECONDS + began))
  shift 2
  if [ "$left" -lt "$seconds" ]; then seconds=$((left > 5 ? left : 5)); fi
  echo "== $name: $*"
  timeout --kill-after=5 "$seconds" "$@"
  code=$?
  names+=("$name") codes+=("$code") walls+=($((SECONDS - begin)))
}

# The extension for this chip alone: the kernels of each instruction set of the CPU, and CUDA's.
build() { TORCH_CUDA_ARCH_LIST=$architecture "$python" setup.py -q build_ext --inplace; }

# The C++ tests of the CUDA kernels, one program each, without cmake.
programs() {
  local number=${architecture/./} source
  for source in csrc/cuda/*.cu csrc/tests/test_cuda_*.cpp; do
    nvcc -std=c++20 -O2 -lineinfo -Icsrc -arch="sm_$number" -x cu -dc "$source" \
      -o "$work/$(basename "${source%.*}").o" &
    while [ "$(jobs -r | wc -l)" -ge "$(nproc)" ]; do wait -n || return 1; done
  done
  wait || return 1
  for source in csrc/tests/test_cuda_*.cpp; do
    nvcc -arch="sm_$number" "$work/$(basename "${source%.*}").o" "$work"/*_cuda.o \
      -o "$work/$(basename "${source%.*}")" &
  done
  local code=0 job
  for job in $(jobs -p); do wait "$job" || code=1; done
  return $code
}

run_programs() { # run_programs [SANITIZER-TOOL]: all of them; fails if one does
  local code=0 program
  for program in "$work"/test_cuda_*; do
    [ -x "$program" ] && [ "${program%.o}" = "$program" ] || continue
    if [ -n "${1:-}" ]; then
      compute-sanitizer --tool "$1" --error-exitcode 1 "$program" || code=1
    else
      "$program" || code=1
    fi
  done
  return $code
}
export -f build programs run_programs
export python architecture work

step environment 30 "$python" -m wgangp_fast.bench --environment --device "$device" \
  --out "$work/environment.json"
step build 150 bash -c build
# Threads that spin while they wait cost the tests time; the benchmarks keep the default.
pytest=(env OMP_WAIT_POLICY=passive "$python" -m pytest -q -p no:cacheprovider)
bench() { # bench NAME SECONDS ARGUMENTS...: one suite, into the result NAME
  local name=$1 seconds=$2
  shift 2
  step "$name" "$seconds" "$python" -m wgangp_fast.bench "$@" --device "$device" --out "$work/$name.json"
}

if [ "$part" != bench ]; then
  step gpu-tests 120 "${pytest[@]}" tests/gpu
  kernels=(tests/unit/test_ops.py tests/slow/test_mlp_penalty.py tests/unit/test_products.py)
  step kernel-tests 70 "${pytest[@]}" "${kernels[@]}" -k "not triton"
  # Triton compiles a kernel for each activation, layout and dtype: the two dtypes that people train in.
  if [ "$device" = cuda ]; then
    step triton-tests 100 "${pytest[@]}" tests/unit/test_ops.py -k "triton and (float32 or bfloat16)"
    step cuda-programs 100 bash -c 'programs && run_programs'
    if command -v compute-sanitizer >/dev/null; then
      step memcheck 45 bash -c 'run_programs memcheck'
      step racecheck 45 bash -c 'run_programs racecheck'
    else
      echo "== no compute-sanitizer on PATH"
      names+=(sanitizer) codes+=(127) walls+=(0)
    fi
  fi
fi
if [ "$part" != tests ]; then
  # What the project is measured by comes first: a part that runs out of time loses its end.
  bench penalty 150 --suite penalty --preset quick --memory
  bench critic_step 150 --suite critic_step --preset quick --memory
  bench ops 90 --suite ops --preset "$([ "$device" = cuda ] && echo full || echo quick)"
  if [ "$device" = cuda ]; then
    bench rivals 180 --suite penalty --preset full --workload dcgan64-layernorm
    bench train_step 60 --suite train_step --workload dcgan64-layernorm
    step trainer 120 "$python" benchmarks/trainer.py --rounds 2 --row lsun64-dcgan --device cuda --out "$work/trainer.json"
  fi
  bench accuracy 60 --suite accuracy --workload toy --workload dcgan64 --workload dcgan64-layernorm --batch 8
fi
# What time is left goes to the other tests: penalty and loss on this device.
if [ "$part" != bench ]; then
  step other-tests 120 "${pytest[@]}" tests/integration/test_loss.py tests/integration/test_penalty.py tests/integration/test_api.py -x
fi

# 124 and 137 are timeout's codes.
failed=0 rows=
for i in "${!names[@]}"; do
  [ "${codes[i]}" = 0 ] || failed=1
  rows+="${rows:+, }{\"step\": \"${names[i]}\", \"exit_code\": ${codes[i]}, \"wall_s\": ${walls[i]}}"
done
echo "{\"device\": \"$device\", \"steps\": [$rows]}" >"$work/steps.json"
"$python" benchmarks/summarise.py "$work" "$out" || failed=1
exit $failed
