#!/usr/bin/env bash
# Builds the llama.cpp that the benchmarks compare with, once, into the folder
# named by the first argument, and prints its commit. The source is the one that
# the Python source package llama-cpp-python carries. Programs land in
# DIR/build/bin and, where the CPU has AMX, those of a build without it in
# DIR/build-no-amx/bin.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
version=0.3.36
sum=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
commit=0c1e57098bba43ac29e6e3b677cdceebdd22334f
src=$dir/src/vendor/llama.cpp
bench=(llama-bench llama-batched-bench)

fetch() {
	local archive=$dir/llama_cpp_python-$version.tar.gz
	if [ ! -f "$archive" ]; then
		echo "fetching llama-cpp-python $version (77 MB) ..."
		pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$dir" "llama-cpp-python==$version"
	fi
	echo "$sum  $archive" | sha256sum --check --quiet
	if [ ! -f "$src/CMakeLists.txt" ]; then
		mkdir -p "$dir/src"
		tar xzf "$archive" -C "$dir/src" --strip-components=1
	fi
	local got
	got=$(git -C "$src" rev-parse HEAD)
	[ "$got" = "$commit" ] || { echo "the package carries llama.cpp $got, want $commit" >&2; exit 1; }
}

# build NAME C-FLAGS C++-FLAGS PROGRAM... builds programs in DIR/NAME. All settings that
# are not named are llama.cpp's own defaults: OpenMP, repacked weights.
build() {
	local out=$dir/$1 cflags=$2 cxxflags=$3
	shift 3
	[ -f "$out/done" ] && return
	fetch
	echo "building llama.cpp in $out (some minutes) ..."
	nice -n 10 cmake -S "$src" -B "$out" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_RPC=ON \
		-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
		-DLLAMA_OPENSSL=OFF -DCMAKE_C_FLAGS="$cflags" -DCMAKE_CXX_FLAGS="$cxxflags" >"$out.log" 2>&1 &&
		nice -n 10 cmake --build "$out" -j2 --target "$@" >>"$out.log" 2>&1 ||
		{ tail -20 "$out.log" >&2; exit 1; }
	touch "$out/done"
}

for tool in pip cmake c++ git; do
	command -v $tool >/dev/null || { echo "the llama.cpp baseline needs $tool (Debian: apt-get install python3-pip cmake g++ git)" >&2; exit 1; }
done
build build "" "-include $here/amx.h" "${bench[@]}" llama-quantize llama-perplexity ggml-rpc-server
macros=$(c++ -march=native -dM -E -x c++ /dev/null)
if [[ $macros == *__AMX_INT8__* ]]; then
	flags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
	build build-no-amx "$flags" "$flags" "${bench[@]}"
fi
echo "llama.cpp $commit in $dir"
