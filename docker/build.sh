#!/usr/bin/env bash
# Builds the image with docker, podman or buildah, whichever is there (ENGINE=... chooses).
#
#   docker/build.sh [NAME] [options of the engine's build]      docker/build.sh slant --build-arg BASE=my/python:3.11
#
# BASE is any image with Python 3.11 and its venv module.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-slant}
shift || true
engine=${ENGINE:-}
for candidate in docker podman buildah; do
    if [ -z "$engine" ] && command -v "$candidate" > /dev/null; then engine=$candidate; fi
done
if [ -z "$engine" ]; then
    echo "found none of docker, podman and buildah; install one of them, or name yours: ENGINE=/path/to/it $0" >&2
    exit 2
fi
exec "$engine" build --file docker/Dockerfile --tag "$name" "$@" .
