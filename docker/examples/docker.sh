#!/bin/sh
# Segments one participant of a BIDS dataset with Docker, then writes the tables of all: docker.sh BIDS OUT LABEL
set -eu
mkdir -p "$2"
run() {
    docker run --rm --read-only --tmpfs /tmp --network none --user "$(id -u):$(id -g)" --cpus 2 --memory 4g \
        --volume "$(realpath "$1"):/bids:ro" --volume "$(realpath "$2"):/out" \
        slant /bids /out "$3" ${4:+--participant-label "$4"}
}
run "$1" "$2" participant "$3"
run "$1" "$2" group
