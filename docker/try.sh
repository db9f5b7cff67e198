#!/usr/bin/env bash
# Segments one scan in a locked-down container: another user id, a read-only root file system, no network, no HOME, and
# no folders of the host except the input and output folders. With buildah, the script sets up the same restrictions
# itself, which needs root.
#
#   docker/try.sh SCAN.nii.gz OUT [NAME]
set -euo pipefail
if [ $# -lt 2 ] || [ ! -f "$1" ]; then
    echo "expected a scan and an output directory: $0 SCAN.nii.gz OUT [NAME of the image]" >&2
    exit 2
fi
scan=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
name=${3:-slant}
id=${SLANT_UID:-1234}
inputs=$(mktemp -d)
trap 'rm -rf "$inputs"' EXIT
cp "$scan" "$inputs/"
chmod -R a+rX "$inputs"
engine=${ENGINE:-}
for candidate in docker podman buildah; do
    if [ -z "$engine" ] && command -v "$candidate" > /dev/null; then engine=$candidate; fi
done
if [ "${engine##*/}" != buildah ]; then
    exec "${engine:?found none of docker, podman and buildah}" run --rm --read-only --tmpfs /tmp --network none \
        --user "$id:$id" --env HOME= --volume "$inputs:/INPUTS:ro" --volume "$out:/OUTPUTS" "$name"
fi
chown "$id:$id" "$out"
container=$("$engine" from "$name")
root=$("$engine" mount "$container")
trap 'rm -rf "$inputs"; "$engine" umount "$container" > /dev/null; "$engine" rm "$container" > /dev/null' EXIT
mkdir -p "$root/INPUTS" "$root/OUTPUTS" "$root/tmp" "$root/proc" "$root/dev"
# Mount namespace without network and with a read-only root; the entry point runs as the other user with a minimal
# environment.
# shellcheck disable=SC2016
unshare --mount --net bash -euc '
    root=$1 inputs=$2 out=$3 id=$4
    mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
    mount --bind "$inputs" "$root/INPUTS" && mount -o remount,bind,ro "$root/INPUTS"
    mount --bind "$out" "$root/OUTPUTS"
    mount -t tmpfs tmpfs "$root/tmp" && chmod 1777 "$root/tmp"
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/dev"
    for device in null zero random urandom; do
        touch "$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/shm" && chmod 1777 "$root/dev/shm"
    exec chroot --userspec="$id:$id" "$root" /usr/bin/env --ignore-environment \
        PATH=/opt/slant/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        MPLCONFIGDIR=/tmp/slant-matplotlib slant-entrypoint
' bash "$root" "$inputs" "$out" "$id"
