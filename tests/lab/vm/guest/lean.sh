#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A guest without systemd: an SSH server, and nothing else until somebody logs in.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/net /run/sshd /run/network /run/lock
mount -t devpts devpts /dev/pts
modprobe -q tun
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
/usr/sbin/sshd
while :; do
    sleep 1000 &
    wait
done
