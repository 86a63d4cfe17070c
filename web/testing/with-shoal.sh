#!/bin/sh
# Runs a command beside two fresh `shoal up`, of the demo model in int4 (SHOAL_URL,
# SHOAL_URL_INT4) and in int8 (SHOAL_URL_INT8). SHOAL_BIN names the program.
#   with-shoal.sh COMMAND...
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
shoal=${SHOAL_BIN:-$root/bin/shoal}
aliases=models/llama-7b,models/llama-7b-32k,models/llama-7b-chat,models/llava-7b,models/clip-vit-base,llama-7b,https://example.com/models/llama-7b

work=$(mktemp -d)
servers=
trap 'for s in $servers; do kill "$s" 2>/dev/null || true; wait "$s" 2>/dev/null || true; done; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

for model in tiny-int4 tiny; do
  "$shoal" up "$model" --listen 127.0.0.1:0 --alias "$aliases" >"$work/$model" 2>&1 &
  servers="$servers $!"
done
for model in tiny-int4 tiny; do
  tries=0
  until grep -q '✓ ready' "$work/$model"; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { cat "$work/$model" >&2; exit 1; }
    sleep 0.1
  done
done
address() { sed -n 's/.*Chat *\(http[^ ]*\).*/\1/p' "$work/$1"; }
SHOAL_URL_INT4=$(address tiny-int4) SHOAL_URL_INT8=$(address tiny)
SHOAL_URL=$SHOAL_URL_INT4
export SHOAL_URL SHOAL_URL_INT4 SHOAL_URL_INT8
"$@"
