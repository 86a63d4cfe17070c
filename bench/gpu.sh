#!/usr/bin/env bash
# What a GPU takes for synthetic Llama models, and its soak: bench/gpu.sh FILE
# merges the figures into FILE. It needs bin/shoal-gpu and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
gpu=${SHOAL_GPU:-bin/shoal-gpu}
save=$1
device=(${DEVICE:+--device "$DEVICE"})

# Limits of an NVIDIA H200 for the table of operations, and what llama.cpp reaches
# there with CUDA on the same shapes, all matrices Q4_0, in tokens a second.
limits=() base_8b=() base_1b=()
if "$gpu" adapters | grep -q H200; then
  limits=(--peak-gbps 4800 --peak-tflops 67)
  base_8b=(--baseline-decode 346 --baseline-prefill 11186)
  base_1b=(--baseline-decode 1038)
fi

# The larger one last: its upload is the figure that stays.
"$gpu" bench 1b --ops "${device[@]}" "${limits[@]}" "${base_1b[@]}" --save "$save"
"$gpu" bench 8b --ops "${device[@]}" "${limits[@]}" "${base_8b[@]}" --save "$save"
# Decode behind a long context by class of stored keys and values: float32 first, to compare with.
label=${LABEL:-gpu}_at8000
for kv in float32 16 8 4 3 2 4@128-3@1024; do
  "$gpu" bench 8b --prefill 8000 --decode 64 --runs 3 --kv "$kv" "${device[@]}" --label "$label" --save "$save"
done
"$gpu" bench pair 8b "${device[@]}" --save "$save"
"$gpu" soak-readback "${device[@]}" --count "${READBACKS:-1000000}" --save "$save"
