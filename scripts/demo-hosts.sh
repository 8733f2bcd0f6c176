#!/bin/sh
# Builds packages of two versions and the programs of the demo of the package, and runs
# it; see tests/demo-hosts. Arguments go to the program.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
mkdir -p bin/hosts
rm -f bin/hosts/*
for version in 1.0.0 1.0.1; do
	make -s build VERSION=v$version
	packaging/deb.sh $version bin/hosts >/dev/null
done
make -s build
$go build -trimpath -o bin/hosts/client ./tests/demo-hosts/client
$go build -trimpath -o bin/demo-hosts ./tests/demo-hosts
exec bin/demo-hosts "$@"
