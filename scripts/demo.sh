#!/bin/sh
# Builds the demo's program and runs it; see tests/demo. KEEP=1 leaves the cluster
# and the guest running. Arguments go to the program.
set -eu
cd "$(dirname "$0")/.."
${GO:-go} build -o bin/demo ./tests/demo
exec bin/demo "$@"
