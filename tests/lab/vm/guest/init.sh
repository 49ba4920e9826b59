#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# First process on the guest's own disk: on the first boot unpack the second disk (a tar archive: keys, site files), name the network
# interfaces as /lab/nics says (address of the hardware, name, addresses with commas or -, gateways with commas or -), and hand over.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
init=/sbin/init name=guest
for word in $(cat /proc/cmdline); do
    case $word in
        lab.name=*) name=${word#*=} ;;
        lab.init=*) init=${word#*=} ;;
    esac
done
if [ ! -e /lab/unpacked ]; then
    tar -xf /dev/vdb -C / --no-same-owner
    echo "$name" >/etc/hostname
    printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$name" >/etc/hosts
    sum=$(echo "$name" | md5sum)
    echo "${sum%% *}" >/etc/machine-id
    : >/lab/unpacked
    sync
fi
hostname "$name"
modprobe -q ipv6
ip link set lo up
if [ -e /lab/nics ]; then
    while read -r mac nic addresses gateways; do
        for path in /sys/class/net/*; do
            [ "$(cat "$path/address")" = "$mac" ] || continue
            [ "${path##*/}" = "$nic" ] || ip link set "${path##*/}" name "$nic"
        done
        [ "$addresses" = - ] && [ "$gateways" = - ] && continue
        ip link set "$nic" up
        for address in $(echo "$addresses" | tr , ' '); do
            case $address in
                -) ;;
                *:*) ip addr add "$address" dev "$nic" nodad ;;
                *) ip addr add "$address" dev "$nic" ;;
            esac
        done
        for gateway in $(echo "$gateways" | tr , ' '); do
            [ "$gateway" = - ] || ip route replace default via "$gateway" dev "$nic"
        done
    done </lab/nics
fi
exec "$init"
