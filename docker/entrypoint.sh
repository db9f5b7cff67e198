#!/bin/sh
# Without arguments, with scans in /INPUTS: the contract of the original container. `slant ...`: that command.
# Anything else: the BIDS App.
set -eu
if [ $# -eq 0 ] && [ -d /INPUTS ]; then
    exec slant original /INPUTS /OUTPUTS
fi
if [ "${1:-}" = slant ]; then
    exec "$@"
fi
exec slant-bids "$@"
