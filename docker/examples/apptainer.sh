#!/bin/sh
# Segments one participant of a BIDS dataset with Apptainer: apptainer.sh BIDS OUT LABEL
# For a GPU, add --nv and use an image with CUDA.
set -eu
mkdir -p "$2"
apptainer run --containall --cleanenv --bind "$(realpath "$1"):/bids:ro" --bind "$(realpath "$2"):/out" slant.sif \
    /bids /out participant --participant-label "$3"
