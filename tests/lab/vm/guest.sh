#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# First process of the guest's own system: unpack the checkout from the second disk, run its command, report, power off.
# The second disk is a tar archive; its member .command is the command, which runs in /project.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/net
mount -t devpts devpts /dev/pts
hostname guest
modprobe -a ipv6 tun veth 2>/dev/null
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
tar -xf /dev/vdb -C /project
cd /project || exit
echo "@@guest begins"
sh ./.command 2>&1 </dev/null
echo "@@guest ends $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
