#!/usr/bin/env bash
# Builds the image with docker, podman or buildah, whichever is installed (ENGINE=... selects one).
#
#   docker/build.sh [NAME] [build options of the engine]
#   docker/build.sh slant --build-arg BASE=my/python:3.11
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
    echo "none of docker, podman and buildah was found; install one, or give another: ENGINE=/path/to/engine $0" >&2
    exit 2
fi
exec "$engine" build --file docker/Dockerfile --tag "$name" "$@" .
