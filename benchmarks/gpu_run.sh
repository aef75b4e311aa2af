#!/usr/bin/env bash
# Everything that needs a chip, unattended: build, tests, sanitizer, ceilings, benchmarks, a trace.
#
#   benchmarks/gpu_run.sh [STEP...]     all steps, or those named, each under ten minutes
#
# Logs go to $OUT (default build/gpu_run), results to benchmarks/results/<device>/. A step that fails is
# reported at the end and does not stop the others; what needs a correct build says so by failing too.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
OUT="${OUT:-build/gpu_run}"
mkdir -p "$OUT"
export PYTHON OUT PYTHONPATH="$PWD" PYTHONUNBUFFERED=1

build() {
    DRCL_BUILD_CUDA=auto "$PYTHON" setup.py build_ext --inplace && "$PYTHON" -m drcl info
}
tests() {
    "$PYTHON" -m pytest tests -q -rs --ignore tests/test_packaging.py --ignore tests/test_kernels_interpreted.py
}
sanitizer() {
    local status=0
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== $tool"
        timeout 140 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$PYTHON" benchmarks/loss_gpu.py sanitize || status=1
    done
    return "$status"
}
ceilings() { "$PYTHON" benchmarks/loss_gpu.py ceilings; }
loss() { "$PYTHON" benchmarks/loss_gpu.py speed large; }
trace() { "$PYTHON" benchmarks/loss_gpu.py trace "$OUT"; }

"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "gpu_run: no CUDA device here")' || exit 2

failed=()
for step in "${@:-build}" $([ $# -eq 0 ] && echo tests sanitizer ceilings loss trace); do
    echo "=== $step"
    started=$SECONDS
    if ! timeout 580 bash -c "$(declare -f "$step"); $step" > >(tee "$OUT/$step.log") 2>&1; then
        failed+=("$step")
    fi
    echo "=== $step: $((SECONDS - started)) s"
done
echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
