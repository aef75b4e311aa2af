#!/usr/bin/env bash
# Everything that needs a chip, unattended: build, tests, the benchmarks, a trace, sanitizers.
#
#   benchmarks/gpu_run.sh [STEP...]     all steps, or those named, each under ten minutes
#
# The steps come in the order of what is worth most where the device is lent for a short time: the tests
# of what only a GPU can show, the figures, and last what takes longest, sanitizers and the whole suite.
# Logs go to $OUT (default build/gpu_run), results to benchmarks/results, into a folder for the device.
# What is written there was measured here, after its gate. A step that fails is reported at the end and
# does not stop the others; what needs a correct build says so by failing too. Without a CUDA device it
# builds, and ends with 2 at the first step that needs one. Where a card is at hand for a quarter of an
# hour, gpu_first.sh gets more out of it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
OUT="${OUT:-build/gpu_run}"
STEPS=(build tests loss large ops ranking training million trace sanitizer suite)
export PYTHON OUT PYTHONPATH="$PWD" PYTHONUNBUFFERED=1

build() { # where there is a GPU, its code has to compile
    local cuda=auto
    has_gpu && cuda=1
    DRCL_REQUIRE_EXT=1 DRCL_BUILD_CUDA=$cuda "$PYTHON" setup.py build_ext --inplace && "$PYTHON" -m drcl info
}
tests() { # of the device alone
    "$PYTHON" -m pytest -q -rs -n 8 tests/gpu/test_gpu.py \
        tests/kernels/test_kernels_{mixup,prior_similarity,reversible_consistency,precision}.py
}
suite() { # but for what makes distributions, or compiles or interprets the kernels without a GPU
    "$PYTHON" -m pytest tests -q -rs -n 8 --ignore=tests/test_packaging.py --ignore=tests/native/test_cuda_source.py \
        --ignore=tests/kernels/test_{kernel_compilation,kernels_interpreted,kernel_launches}.py
}
sanitizer() { # every tensor an allocation of its own: inside a shared one nothing is out of bounds
    local status=0
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== $tool"
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 140 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$PYTHON" -m drcl.benchmarks.gpu_checks sanitize || status=1
    done
    return "$status"
}
has_gpu() { "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }
bench() { "$PYTHON" -m drcl bench --device cuda --out benchmarks/results "$@"; }
loss() { bench --only "loss B=256 " --only "loss B=1024 " --only "loss B=2048 " --only "loss B=4096 "; }
large() { # batches of more
    bench --only "loss B=8192 " --only "loss B=16384 " --only "loss B=32768 " --only "loss B=65536 " \
        --only "loss B=131072 " --only "loss B=1048576 "
}
ops() { bench --only prior_similarity --only mixup; }
ranking() { bench --only "map Q=2" --only "map Q=4" --only "map Q=5"; }
million() { bench --only "map Q=8192 " --only "map Q=1000000 "; }
training() {
    local status=0
    bench --only "training, " || status=1
    # enough steps an epoch that those of the last one are replays
    "$PYTHON" -m drcl.benchmarks.workloads.training --batch 8192 --rows 65536 --out || status=1
    return "$status"
}
trace() { "$PYTHON" -m drcl.benchmarks.gpu_checks trace "$OUT"; }

for step in "$@"; do
    if [[ " ${STEPS[*]} " != *" $step "* ]]; then
        echo "gpu_run: no step '$step'; there are: ${STEPS[*]}" >&2
        exit 2
    fi
done
mkdir -p "$OUT"
failed=()
[ $# -gt 0 ] && STEPS=("$@")
for step in "${STEPS[@]}"; do
    if [ "$step" != build ] && ! has_gpu; then
        echo "gpu_run: no CUDA device here; stopped before '$step'. failed: ${failed[*]:-none}" >&2
        exit 2
    fi
    echo "=== $step"
    started=$SECONDS
    timeout 580 bash -c "$(declare -f has_gpu bench "$step"); $step" > >(tee "$OUT/$step.log") 2>&1 || failed+=("$step")
    echo "=== $step: $((SECONDS - started)) s"
done
echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
