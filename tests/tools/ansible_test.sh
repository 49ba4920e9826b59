#!/bin/sh
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# ansible_test.sh NAME COMMAND [ARGUMENT...]: ansible-test of the environment build/venv-NAME on a copy of the checkout.
#
# ansible-test wants a real path …/ansible_collections/tunnelbroker/tsp, real interpreters in PATH (pyenv's shims confuse it), and
# a get-pip of its own, which we bring. Its home is in build/, so that nothing of the user's is read or changed.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
name=$1 command=$2
shift 2
env=$root/build/venv-$name
home=$root/build/ansible-test-$name
python=$("$env/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

mkdir -p "$home/bin" "$home/.ansible/test/cache"
for version in 23_1_2 24_2 25_2; do cp tests/tools/get_pip.py "$home/.ansible/test/cache/get_pip_$version.py"; done

# Links to the real interpreters, one per version.
rm -f "$home"/bin/python*
"$env/bin/python" - "$home/bin" <<'PY'
import glob, os, shutil, subprocess, sys
pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
for minor in range(9, 15):
    name = f"python3.{minor}"
    found = sorted(glob.glob(f"{pyenv}/versions/3.{minor}.*/bin/{name}")) + [shutil.which(name) or ""]
    for path in filter(None, found):
        done = subprocess.run([path, "-c", "import sys, venv, ensurepip; print(sys.executable)"], capture_output=True, text=True)
        if done.returncode == 0:
            os.symlink(done.stdout.strip(), os.path.join(sys.argv[1], name))
            break
PY
ln -sf "$env/bin/python" "$home/bin/python$python"

case $command in
    sanity) set -- --color no "$@" ;;
    units | integration) set -- --color no --python "$python" "$@" ;;
esac
for file in "${PIP_CONFIG_FILE:-}" "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    if [ -f "$file" ]; then export PIP_CONFIG_FILE="$file"; break; fi
done
copy=$("$env/bin/python" tests/tools/stage.py "$home/tree")
cd "$copy"
# ansible-test asks git what there is; in the checkout's own repository build/ is ignored, so the copy gets one of its own.
[ -d .git ] || git init -q . 2>/dev/null || true
export HOME="$home" PATH="$home/bin:$env/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" ANSIBLE_HOME="$home/.ansible"
exec "$env/bin/ansible-test" "$command" "$@" </dev/null
