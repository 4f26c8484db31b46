#!/bin/bash
# Builds attach_watch_detach.go into the file that is named, with the types that protoc makes of the proto.
#
#   examples/go/build.sh target/go/attach_watch_detach
#
# Of Debian 12: golang-go (1.19), golang-google-grpc-dev (1.33), protobuf-compiler, protoc-gen-go-1-3. The same calls are in later versions of
# grpc-go, which want later ones of Go; their protoc-gen-go and protoc-gen-go-grpc take `--go_opt` and `--go-grpc_opt` instead of `plugins=grpc`.
set -euo pipefail
output=$(readlink -m "$1")
cd "$(dirname "$(readlink -f "$0")")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
generated=$work/src/volattachv1
timestamp=Mgoogle/protobuf/timestamp.proto=github.com/golang/protobuf/ptypes/timestamp
mkdir -p "$generated"
protoc -I ../../proto/volattach/v1 "--go_out=plugins=grpc,import_path=volattachv1,$timestamp:$generated" volattach.proto
GO111MODULE=off GOPATH=$work:/usr/share/gocode go build -o "$output" attach_watch_detach.go
