#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The programs that the namespaces of `make demo` and of some tests need (with the word vm, those of tests/lab/vm as well):
# installed where they are missing and we are root on a system with apt-get; else a sentence says what to install. Never fails:
# what cannot run says so itself.
PATH=$PATH:/usr/sbin:/sbin
missing=
wanted="ip:iproute2 nft:nftables ping:iputils-ping ps:procps unshare:util-linux pivot_root:util-linux mount:mount ssh:openssh-client"
if [ "${1-}" = vm ] && [ "$(uname -m)" = x86_64 ]; then
    wanted="$wanted qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs cpio:cpio depmod:kmod busybox:busybox-static lz4:lz4"
fi
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get install -qq -y --no-install-recommends $missing || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing; }; } \
        >/dev/null </dev/null || echo "apt-get could not install$missing; what needs them will say so." >&2
else
    echo "Missing for the demo and for the tests in namespaces:$missing. Install them with your system's package manager." >&2
fi
exit 0
