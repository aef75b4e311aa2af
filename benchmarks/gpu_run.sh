#!/usr/bin/env bash
# Everything that needs a chip, unattended: build, tests, sanitizer, the suite, a trace.
#
#   benchmarks/gpu_run.sh [STEP...]     all steps, or those named, each under ten minutes
#
# Logs go to $OUT (default build/gpu_run), results to $RESULTS (default benchmarks/results), into a
# folder for the device. What is written there was measured here, after its gate. A step that fails is
# reported at the end and does not stop the others; what needs a correct build says so by failing too.
# Without a CUDA device it builds, and ends with 2 at the first step that needs one.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
OUT="${OUT:-build/gpu_run}"
RESULTS="${RESULTS:-benchmarks/results}"
STEPS=(build tests sanitizer loss ops ranking training trace)
export PYTHON OUT RESULTS PYTHONPATH="$PWD" PYTHONUNBUFFERED=1

build() {
    DRCL_BUILD_CUDA=auto "$PYTHON" setup.py build_ext --inplace && "$PYTHON" -m drcl info
}
tests() { # but for those that make distributions, or run the kernels without a GPU
    "$PYTHON" -m pytest tests -q -rs -n 8 --ignore tests/test_packaging.py --ignore tests/test_kernels_interpreted.py
}
sanitizer() {
    local status=0
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== $tool"
        timeout 140 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$PYTHON" -m drcl.benchmarks.gpu_checks sanitize || status=1
    done
    return "$status"
}
has_gpu() { "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }
bench() { "$PYTHON" -m drcl bench --device cuda --out "$RESULTS" "$@"; }
loss() { bench --only "loss "; }
ops() { bench --only prior_similarity --only mixup; }
ranking() { bench --only "map "; }
training() { bench --only "training, "; }
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
    timeout 580 bash -c "$(declare -f bench "$step"); $step" > >(tee "$OUT/$step.log") 2>&1 || failed+=("$step")
    echo "=== $step: $((SECONDS - started)) s"
done
echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
