#!/bin/sh
# One participant of a BIDS dataset in Apptainer: apptainer.sh BIDS OUT LABEL; for a GPU add --nv and an image with CUDA
set -eu
mkdir -p "$2"
apptainer run --containall --cleanenv --bind "$(realpath "$1"):/bids:ro" --bind "$(realpath "$2"):/out" slant.sif \
    /bids /out participant --participant-label "$3"
