#!/usr/bin/env bash
# Runs every fuzz target of the repository for the time given, one after the other.
set -euo pipefail
time=${1:-30s}
cd "$(dirname "$0")/../.."
grep -rl --include='*_test.go' '^func Fuzz' cmd internal pkg services | sort -u | while read -r file; do
  dir=$(dirname "$file")
  grep -o '^func Fuzz[A-Za-z0-9_]*' "$file" | sed 's/^func //' | while read -r target; do
    echo "== $dir $target $time"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null
  done
done
