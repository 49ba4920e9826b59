#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# env.sh NAME: makes the virtual environment build/venv-NAME from requirements/NAME.txt, with any suitable Python of this
# machine (PATH, then ~/.pyenv/versions). Called by the Makefile, which knows when it is out of date.
set -eu
cd "$(dirname "$0")/../.."
name=$1
env=build/venv-$name
file=requirements/$name.txt
say() { echo "env.sh: $*" >&2; }

# The first version that is there wins. ansible-core 2.21 needs 3.12 or newer, ansible-core 2.16 needs 3.10 to 3.12.
case $name in
    uv) versions="3.12 3.13 3.14 3.11" file= ;;
    test | molecule | lint | sanity-2.21) versions="3.12 3.13 3.14 3.11" ;;
    sanity-2.16) versions="3.11 3.10 3.12" ;;
    *) say "no environment is called $name"; exit 2 ;;
esac

usable() { # usable INTERPRETER VERSION: is it that version, and can it make virtual environments?
    [ -x "$1" ] && [ "$("$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$2" ]
}

find_python() {
    for version in $versions; do
        for folder in $(echo "$PATH" | tr ':' ' ') /usr/local/bin /usr/bin "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin; do
            for program in "$folder/python$version" "$folder/python3"; do
                if usable "$program" "$version"; then echo "$program"; return; fi
            done
        done
    done
}

python=$(find_python)
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && command -v python3 >/dev/null; then
    say "no Python here can make virtual environments: installing python3-venv"
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv; } >/dev/null </dev/null || true
    python=$(find_python)
fi
if [ -z "$python" ]; then
    say "$env needs one of Python $versions with its venv module (Debian: apt-get install python3-venv; or pyenv install 3.12)"
    exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $name-$version in
    test-3.11 | molecule-3.11 | lint-3.11) file=requirements/$name-3.11.txt ;;
    sanity-2.21-3.11) file=requirements/sanity-2.19.txt ;;
esac
case $file in
    *-3.11.txt | *-2.19.txt) say "no newer Python than 3.11 is here: using ansible-core 2.19; ansible-core 2.21 needs 3.12" ;;
esac

rm -rf "$env"
if [ -z "$file" ]; then
    "$python" -m venv "$env"
    # The installer that makes the other environments in seconds. They can do without: see below.
    "$env/bin/python" -m pip install -q --disable-pip-version-check uv==0.13.9 </dev/null || say "uv cannot be installed here; pip will do"
else
    if [ -x build/venv-uv/bin/uv ] && "$python" -m venv --without-pip "$env" &&
        build/venv-uv/bin/uv pip sync -q --python "$env/bin/python" "$file" </dev/null; then
        :
    else
        say "installing with pip"
        "$python" -m venv --clear "$env"
        "$env/bin/python" -m pip install -q --disable-pip-version-check -r "$file" </dev/null
    fi
    say "$env: Python $version, $(grep -o '^ansible-core==[0-9.a-z]*' "$file"), $file"
fi
touch "$env/.stamp"
