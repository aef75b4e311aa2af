#!/usr/bin/env bash
# The most that a card at hand for a quarter of an hour can tell, in two calls.
#
#   benchmarks/gpu_first.sh first     build, tests, times by kernel, headline figures, sanitizers
#   benchmarks/gpu_first.sh second    a sweep over configurations, large sizes
#
# Steps come in the order of what they are worth, each under its own limit in seconds. What is measured
# goes to $OUT (default build/gpu_first) as it is measured: a JSON file a step, a line of CALL.jsonl for
# every step that has ended, and one CALL.log. Nothing is downloaded, nothing outside the repository is
# read, and $OUT gets eight files of 16 MiB at most. `python -m drcl.benchmarks.gpu_import $OUT` takes it
# into benchmarks/results. Without a CUDA device it builds, and ends with 2 at the first step that needs
# one. `gpu_run.sh` measures everything, in forty minutes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
first=(build:60 kernels:120 gpu:70 times:60 headlines:80 sanitizer:80)
second=(sweep:130 scale:90)
case "${1:-}" in
first) steps=("${first[@]}") ;;
second) steps=("${second[@]}") ;;
*)
    echo "usage: benchmarks/gpu_first.sh first|second" >&2
    exit 64
    ;;
esac
CALL=$1
PYTHON="${PYTHON:-python3}"
OUT="$(realpath -m "${OUT:-build/gpu_first}")"
# caches of compiled kernels stay in the repository, for the second call
export PYTHON OUT PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 TRITON_CACHE_DIR="$PWD/build/triton" \
    TORCHINDUCTOR_CACHE_DIR="$PWD/build/inductor"
mkdir -p "$OUT" build
exec > >(tee --output-error=warn-nopipe >(stdbuf -oL head -c 15M > "$OUT/$CALL.log")) 2>&1
LOGGER=$!
trap 'exec >&- 2>&-; wait "$LOGGER"' EXIT

# --- the steps

build() { # for the card that is there; without one, what can be built
    DRCL_REQUIRE_EXT=1 DRCL_BUILD_CUDA=$CUDA TORCH_CUDA_ARCH_LIST=$ARCH "$PYTHON" setup.py build_ext --inplace
}
pytest_on() { # WORKERS FILE...: with xdist, or else a process a file
    local workers=$1 status=0 job jobs=()
    shift
    local options=(-q -rs -p no:cacheprovider --durations=5)
    if "$PYTHON" -c 'import xdist' 2> /dev/null; then
        "$PYTHON" -m pytest "${options[@]}" -n "$workers" "$@"
        return
    fi
    for file in "$@"; do
        "$PYTHON" -m pytest "${options[@]}" "$file" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || status=1; done
    return "$status"
}
kernels() { pytest_on 12 tests/kernels/test_kernels_{mixup,prior_similarity,reversible_consistency,precision}.py; }
gpu() { pytest_on 4 tests/gpu/test_gpu.py; }
times() { "$PYTHON" -m drcl.benchmarks.gpu_first kernels --out "$OUT"; }
headlines() { "$PYTHON" -m drcl.benchmarks.gpu_first headlines --out "$OUT"; }
sanitizer() { # our kernels alone: libraries read padding that they have not written
    local tool name names=() status=0
    for name in $(grep -rohI --include='*.py' '\bdef [a-z_]*_kernel\b' kernels | cut -c5-) rank_kernel; do
        names+=(--kernel-name "kernel_substring=$name")
    done
    compute-sanitizer "${names[@]}" true > /dev/null 2>&1 || names=() # an older one: then all kernels
    for tool in memcheck racecheck; do
        echo "== $tool"
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 "${names[@]}" \
            "$PYTHON" -m drcl.benchmarks.gpu_checks sanitize || status=1
    done
    return "$status"
}
sweep() { "$PYTHON" -m drcl.benchmarks.gpu_sweep --out "$OUT"; }
scale() { # the compiled ranking is gone where this is a fresh machine
    [ -e drcl/_ops.so ] || build
    "$PYTHON" -m drcl.benchmarks.gpu_first scale --out "$OUT"
}

# --- running them

note() { # STEP STATUS SECONDS LIMIT
    printf '{"call": "%s", "step": "%s", "status": %d, "seconds": %d, "limit": %d}\n' "$CALL" "$@" >> "$OUT/$CALL.jsonl"
    echo "=== $1: status $2, $3 s of $4"
}
run() { # STEP LIMIT, in a group of processes that ends with it
    local started=$SECONDS status=0
    timeout --kill-after=2 "$2" bash -c "$(declare -f build pytest_on "$1"); $1" || status=$?
    note "$1" "$status" $((SECONDS - started)) "$2"
    return "$status"
}
CAPABILITY=$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability() if torch.cuda.is_available() else "")')
CUDA=1
[ -n "$CAPABILITY" ] || CUDA=auto
ARCH="${TORCH_CUDA_ARCH_LIST:-$CAPABILITY}"
export CUDA ARCH
failed=()
building=
for each in "${steps[@]}"; do
    step=${each%:*} limit=${each#*:}
    if [ "$step" = build ]; then # beside the kernels' tests, which do without it
        run build "$limit" > build/gpu_first_build.log 2>&1 &
        building=$!
        [ -n "$CAPABILITY" ] && continue
    fi
    if [ -n "$building" ] && [ "$step" != kernels ]; then
        wait "$building" || failed+=(build)
        cat build/gpu_first_build.log
        building=
        [ "$step" = build ] && continue
    fi
    if [ -z "$CAPABILITY" ]; then
        echo "gpu_first: no CUDA device here; stopped before '$step'. failed: ${failed[*]:-none}"
        exit 2
    fi
    echo "=== $step"
    run "$step" "$limit" || failed+=("$step")
done
ls -l "$OUT"
echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
