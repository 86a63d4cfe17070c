#!/usr/bin/env bash
# Builds the llama.cpp that the benchmarks compare with, once, into the folder
# named by the first argument, and prints its commit. The source is the one the
# PyPI source package llama-cpp-python carries. Programs land in DIR/build/bin.
set -euo pipefail
dir=$1
version=0.3.36
sum=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
commit=0c1e57098bba43ac29e6e3b677cdceebdd22334f
programs=(llama-bench llama-batched-bench llama-quantize llama-perplexity ggml-rpc-server)

done=true
for p in "${programs[@]}"; do [ -x "$dir/build/bin/$p" ] || done=false; done
if $done && [ -f "$dir/commit" ]; then
	echo "llama.cpp $(cat "$dir/commit") in $dir/build/bin"
	exit 0
fi

for tool in pip cmake c++ git; do
	command -v $tool >/dev/null || { echo "the llama.cpp baseline needs $tool (Debian: apt-get install python3-pip cmake g++ git)" >&2; exit 1; }
done
mkdir -p "$dir"
archive=$dir/llama_cpp_python-$version.tar.gz
if [ ! -f "$archive" ]; then
	echo "fetching llama-cpp-python $version (77 MB) ..."
	pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$dir" "llama-cpp-python==$version"
fi
echo "$sum  $archive" | sha256sum --check --quiet
src=$dir/src/vendor/llama.cpp
if [ ! -f "$src/CMakeLists.txt" ]; then
	mkdir -p "$dir/src"
	tar xzf "$archive" -C "$dir/src" --strip-components=1
fi
got=$(git -C "$src" rev-parse HEAD)
[ "$got" = "$commit" ] || { echo "the package carries llama.cpp $got, want $commit" >&2; exit 1; }

# All other settings are llama.cpp's own defaults: OpenMP, repacked weights,
# every instruction set of this CPU.
nice -n 10 cmake -S "$src" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_RPC=ON \
	-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
	-DLLAMA_OPENSSL=OFF >"$dir/cmake.log"
nice -n 10 cmake --build "$dir/build" --config Release -j2 --target "${programs[@]}" >"$dir/build.log" 2>&1 ||
	{ tail -20 "$dir/build.log" >&2; exit 1; }
echo "$commit" >"$dir/commit"
echo "llama.cpp $commit in $dir/build/bin"
