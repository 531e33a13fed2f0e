#!/bin/sh
# venv.sh FOLDER [PYTHON]: make a virtual environment with that Python, or with the first that fits: one on the PATH, or one
# that uv finds or brings. Where there is none, say the one command that helps.
set -u
folder=$1
named=${2:-}

say() { echo "$*" >&2; }

# "3.11", if that command is a Python that the locks are for. Version managers leave commands that only fail.
version_of() { "$1" -c 'import sys; v = sys.version_info[:2]; v in [(3, 11), (3, 12), (3, 13)] and print("%d.%d" % v)' 2>/dev/null; }

# Debian and Ubuntu ship this part of Python in a package of its own.
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

make_with() {
    echo "Making the virtual environment $folder with Python $(version_of "$1")"
    "$1" -m venv "$folder"
}

root() { [ "$(id -u)" = 0 ] && echo "$*" || echo "sudo $*"; }

if [ -n "$named" ]; then
    command -v "$named" >/dev/null || { say "$named was not found."; exit 1; }
    version=$(version_of "$named")
    [ -n "$version" ] || { say "$named is $("$named" --version 2>&1); the locked packages are for Python 3.11, 3.12 and 3.13."; exit 1; }
    if has_venv "$named"; then make_with "$named"; exit; fi
    say "$named lacks ensurepip, which virtual environments need. On Debian and Ubuntu run: $(root apt-get install python"$version"-venv)"
    exit 1
fi

lacking=
for python in python3.11 python3.12 python3.13 python3 python; do
    version=$(version_of $python)
    [ -n "$version" ] || continue
    if has_venv $python; then make_with $python; exit; fi
    lacking=${lacking:-$version}
done

for uv in uv "$HOME/.local/bin/uv"; do
    command -v "$uv" >/dev/null || continue
    echo "Making the virtual environment $folder with a Python of uv"
    exec "$uv" venv --quiet --no-project --seed --allow-existing --python '>=3.11,<3.14' "$folder"
done

if command -v apt-get >/dev/null; then
    if [ -n "$lacking" ]; then
        say "Python $lacking is here without its module for virtual environments. Run: $(root apt-get install python"$lacking"-venv)"
        exit 1
    fi
    for version in 3.11 3.12 3.13; do
        apt-cache show python$version-venv >/dev/null 2>&1 || continue
        say "Python 3.11, 3.12 or 3.13 is needed. Run: $(root apt-get install python$version-venv)"
        exit 1
    done
elif command -v dnf >/dev/null; then
    say "Python 3.11, 3.12 or 3.13 is needed. Run: $(root dnf install python3.12)"
    exit 1
fi
if command -v pipx >/dev/null; then bring_uv="pipx install uv"; else bring_uv="curl -LsSf https://astral.sh/uv/install.sh | sh"; fi
say "Python 3.11, 3.12 or 3.13 is needed, or uv, which brings one. Run: $bring_uv"
exit 1
