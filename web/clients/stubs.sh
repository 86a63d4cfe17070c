#!/bin/sh
# Makes Python and TypeScript stubs from the protos in .tmp/stubs and checks that
# they load. Needs python3 and node 20.
set -eu
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
. ./install.sh

PYTHONPATH="$stubs/python" "$venv/bin/python" -c '
from shoal.v1 import generate_pb2, generate_pb2_grpc
assert generate_pb2_grpc.GenerateServiceStub
assert generate_pb2.Generation(prompt="x").WhichOneof("input") == "prompt"'
ln -sfn "$modules/node_modules" "$stubs/js/node_modules"
echo '{"type":"module"}' >"$stubs/js/package.json"
(cd "$stubs/js" && node --input-type=module -e '
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { GenerateService, GenerationSchema } from "./shoal/v1/generate_pb.js";
assert.ok(GenerateService.method.chat);
assert.equal(create(GenerationSchema, { input: { case: "prompt", value: "x" } }).input.value, "x");')
echo "stubs are in $stubs"
