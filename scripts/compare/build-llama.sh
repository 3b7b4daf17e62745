#!/usr/bin/env bash
# Builds llama.cpp's batched bench, bench, quantiser and server for this machine's CPU, as an opponent.
# The sources come with the source distribution of llama-cpp-python on PyPI. Usage: build-llama.sh DIR
# Needs a C++ compiler and Python; JOBS sets how many compilers run (default 1). Programs: DIR/build/bin.
set -euo pipefail
version=0.3.36
directory=${1:?usage: build-llama.sh DIR}
mkdir -p "$directory"
cd "$directory"
if ! [ -x tools/bin/ninja ]; then
  python3 -m venv tools
  tools/bin/pip install -q cmake ninja scikit-build-core
fi
PATH=$PWD/tools/bin:$PATH
if ! [ -d "llama_cpp_python-$version" ]; then
  # pip asks the build back end for the name and version, hence scikit-build-core.
  pip download -q "llama-cpp-python==$version" --no-binary llama-cpp-python --no-deps --no-build-isolation
  tar xzf "llama_cpp_python-$version.tar.gz"
fi
cmake -S "llama_cpp_python-$version/vendor/llama.cpp" -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_APP=OFF
nice -n 19 cmake --build build -j "${JOBS:-1}" --target llama-batched-bench llama-bench llama-quantize llama-server
