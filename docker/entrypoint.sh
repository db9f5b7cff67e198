#!/bin/sh
# Entry point of the container. Without arguments and with a folder /INPUTS, it has the interface of the original SLANT
# container. `slant ...` runs that command. All other arguments go to the BIDS App.
set -eu
if [ $# -eq 0 ] && [ -d /INPUTS ]; then
    exec slant legacy /INPUTS /OUTPUTS
fi
if [ "${1:-}" = slant ]; then
    exec "$@"
fi
exec slant-bids "$@"
