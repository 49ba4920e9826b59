#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# First process of a guest: reach the first disk (QEMU keeps what is written to it apart from the image), then guest/init.sh on it.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
tries=0
while [ ! -b /dev/vdb ] && [ $tries -lt 200 ]; do $b usleep 50000; tries=$((tries + 1)); done
$b mount -t ext4 /dev/vda /new || exec $b reboot -f
$b mount --move /proc /new/proc
$b mount --move /sys /new/sys
$b mount --move /dev /new/dev
exec $b switch_root /new /lab/init.sh
