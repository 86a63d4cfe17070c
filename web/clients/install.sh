# Sourced by run.sh and stubs.sh from this folder: makes the virtual environment
# and the node modules, outside what is committed, and the stubs of the protos.
venv=$root/.cache/clients-venv
modules=$root/.tmp/clients
stubs=$root/.tmp/stubs

if ! cmp -s requirements.txt "$venv/requirements.txt"; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt "$venv/requirements.txt"
fi

mkdir -p "$modules"
if ! cmp -s package-lock.json "$modules/installed.json"; then
  cp package.json package-lock.json "$modules/"
  (cd "$modules" && npm ci --ignore-scripts --no-fund --no-audit --silent)
  cp package-lock.json "$modules/installed.json"
fi
cp ./*.js "$modules/"

rm -rf "$stubs"
mkdir -p "$stubs/python" "$stubs/js"
"$venv/bin/python" -m grpc_tools.protoc -I "$root/proto" \
  --python_out="$stubs/python" --pyi_out="$stubs/python" --grpc_python_out="$stubs/python" \
  --plugin="$modules/node_modules/.bin/protoc-gen-es" --es_out="$stubs/js" --es_opt=target=js+dts,import_extension=js \
  "$root"/proto/shoal/v1/*.proto
