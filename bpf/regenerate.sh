#!/bin/sh
# Rewrites the committed objects from the C sources; --check fails if they differ.
set -eu
cd "$(dirname "$0")"
go generate ./...
if [ "${1:-}" = --check ]; then
	git diff --exit-code --stat -- '*_bpfel.o' '*_bpfel.go' || {
		echo "bpf: committed objects differ from the sources: run bpf/regenerate.sh and commit" >&2
		exit 1
	}
fi
