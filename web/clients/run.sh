#!/bin/sh
# Installs official clients and runs their tests against two fresh gateways, one
# open and one with a key. Needs python3, node 20 and curl. Ends with how many
# clients passed, which "make clients" keeps.
#
#   run.sh               all clients
#   run.sh FILE...       some: test_openai.py, ai-sdk.test.js, curl.sh ...
#   run.sh schemathesis  the OpenAPI document instead
set -eu
cd "$(dirname "$0")"
here=$(pwd)
root=$(cd ../.. && pwd)
. ./install.sh

work=$(mktemp -d)
servers=
trap 'for s in $servers; do kill "$s" 2>/dev/null || true; wait "$s" 2>/dev/null || true; done; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# start NAME FLAGS... starts a gateway and waits until it can answer.
start() {
  log=$work/$1
  shift
  "$root/bin/shoal" up --listen 127.0.0.1:0 "$@" >"$log" 2>&1 &
  servers="$servers $!"
  tries=0
  until grep -q '✓ ready' "$log"; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { cat "$log" >&2; exit 1; }
    sleep 0.1
  done
}

# address NAME WORD prints where a gateway said that something is.
address() { sed -n "s/.*$2 *\(\(http:\/\/\)\{0,1\}127[^ ]*\).*/\1/p" "$work/$1"; }

export SHOAL_KEY=key-of-the-client-tests SHOAL_PROTO="$root/proto"
more=
[ "${1:-}" != schemathesis ] || more="--context 128" # answers are short
# shellcheck disable=SC2086 # more is words
{
  start open --ollama 127.0.0.1:0 $more
  start keyed --ollama 127.0.0.1:0 --api-key "$SHOAL_KEY" $more
}
SHOAL_URL=$(address open Chat) SHOAL_GRPC=$(address open gRPC) SHOAL_OLLAMA=$(address open Ollama)
SHOAL_KEY_URL=$(address keyed Chat) SHOAL_KEY_GRPC=$(address keyed gRPC) SHOAL_KEY_OLLAMA=$(address keyed Ollama)
export SHOAL_URL SHOAL_GRPC SHOAL_OLLAMA SHOAL_KEY_URL SHOAL_KEY_GRPC SHOAL_KEY_OLLAMA
export PYTHONPATH="$here:$stubs/python" PYTHONDONTWRITEBYTECODE=1

if [ "${1:-}" = schemathesis ]; then
  . ./schemathesis.sh
  exit
fi

rm -f "$modules/passed"
[ $# -gt 0 ] || set -- test_openai.py test_ollama.py test_langchain.py test_grpcio.py openai.test.js ai-sdk.test.js grpc-js.test.js curl.sh
passed=0
failed=
for file in "$@"; do
  echo "== $file"
  case $file in
  *.py) "$venv/bin/python" "$here/$file" && ok=1 || ok= ;;
  *.js) (cd "$modules" && node --test "$file") && ok=1 || ok= ;;
  *.sh) sh "$here/$file" && ok=1 || ok= ;;
  esac
  [ -n "$ok" ] && passed=$((passed + 1)) || failed="$failed $file"
done
echo "clients passed: $passed of $#"
echo "$passed" >"$modules/passed"
echo "$#" >"$modules/ran"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
