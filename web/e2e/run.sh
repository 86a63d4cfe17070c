#!/bin/sh
# Drives the page in headless Chromium against a fresh `shoal up`, or against
# the server that SHOAL_URL names. Needs node 20 and Chromium (SHOAL_CHROMIUM,
# default /usr/bin/chromium). SHOAL_SCREENSHOTS names a folder for pictures.
set -eu
cd "$(dirname "$0")"

chromium=${SHOAL_CHROMIUM:-/usr/bin/chromium}
[ -x "$chromium" ] || { echo "no Chromium at $chromium: install it, or set SHOAL_CHROMIUM" >&2; exit 1; }
[ -d node_modules/playwright-core ] || npm ci --ignore-scripts

if [ -z "${SHOAL_URL:-}" ]; then
  out=$(mktemp)
  ../../bin/shoal up --listen 127.0.0.1:0 >"$out" 2>&1 &
  server=$!
  trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$out"' EXIT
  trap 'exit 1' INT TERM
  tries=0
  until SHOAL_URL=$(sed -n 's/.*Chat *\(http[^ ]*\).*/\1/p' "$out") && [ -n "$SHOAL_URL" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$server" 2>/dev/null; then
      cat "$out" >&2
      exit 1
    fi
    sleep 0.1
  done
  export SHOAL_URL
fi
node --test page.test.js loss.test.js
