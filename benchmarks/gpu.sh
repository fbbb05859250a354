#!/bin/sh
# What a GPU must show, in at most 8 minutes with 16 cores: its speed from JPEG files to features, then the
# tests marked `gpu`. Arguments are those of benchmarks/gpu.py. To try it without a GPU:
#   SSLEVAL_GPU_TESTS=cpu benchmarks/gpu.sh --device cpu --arch vit_tiny_patch16_224 --workers 1 \
#     --batch-size 8 --images 80 --jpegs 16
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON="${PYTHON:-python}"
code=0
timeout 270 "$PYTHON" -m benchmarks.gpu "$@" || code=$?
timeout 200 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests || code=$?
exit "$code"
