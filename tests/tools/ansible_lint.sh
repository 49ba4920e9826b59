#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# ansible_lint.sh ENV: ansible-lint, profile production with nothing skipped, on a copy of the checkout at a path from which the
# collection's own name resolves.
set -eu
cd "$(dirname "$0")/../.."
env=$PWD/$1
tree=$PWD/build/lint
copy=$("$env/bin/python" tests/tools/stage.py "$tree")
cd "$copy"
export PATH="$env/bin:$PATH" ANSIBLE_COLLECTIONS_PATH="$tree" ANSIBLE_HOME="$tree/home" XDG_CACHE_HOME="$tree/cache"
exec "$env/bin/ansible-lint" --offline --profile production --nocolor
