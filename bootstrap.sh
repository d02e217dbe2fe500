#!/bin/sh
# Make .venv with pinned packages, or leave it alone when it has them: bootstrap.sh REQUIREMENTS-FILE...
# uv installs, with the build of PyTorch that fits this machine; pip where it is set up here, or where uv cannot.
# From the environment: PYTHON, the interpreter to use; PIP_ARGS, more arguments for pip; and pip's and uv's own PIP_* and
# UV_* variables, but for those that would have them install elsewhere than in .venv.
set -eu
cd "$(dirname "$0")"

refuse() {
    echo "flowerbed: $*" >&2
    exit 1
}

# Run by a candidate. It prints its version and the interpreter to make .venv with (not a virtual environment's own)
# and exits with 0; or prints what is wrong with it and exits with 3 (wrong version) or 4 (anything else).
probe='
import os, struct, sys
def fail(status, sentence):
    print(sentence)
    sys.exit(status)
version = "%d.%d" % sys.version_info[:2]
if version not in ("3.10", "3.11", "3.12"):
    fail(3, "is Python " + version)
if struct.calcsize("P") != 8:
    fail(4, "is a 32-bit Python, for which there is no PyTorch: use a 64-bit system")
try:
    libc = [int(part) for part in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")]
except (AttributeError, IndexError, OSError, ValueError):
    libc = [0]
if libc < [2, 28]:
    fail(4, "does not run on glibc 2.28 or newer, which PyTorch needs: use Debian or Ubuntu")
try:
    import ensurepip, venv
except ImportError:
    fail(4, "cannot make virtual environments: apt install python%s-venv" % version)
# Python 3.10 takes a virtual environment of its own for the base; its links lead there.
print(version, os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
'

# choose CANDIDATE...: set `found` from the first that fits, else `problem` and `fault` from the first that runs.
choose() {
    problem= fault=3
    for candidate in "$@"; do
        status=0
        found=$("$candidate" -I -c "$probe" 2>/dev/null </dev/null) || status=$?
        case $status in
            0)
                problem=
                return
                ;;
            3 | 4) [ -n "$problem" ] || { problem="$candidate $found" fault=$status; } ;;
        esac
    done
    return 1
}

# The package to install, where apt knows one.
advice() {
    for version in 3.12 3.11 3.10; do
        if apt-cache show "python$version-venv" >/dev/null 2>&1; then
            echo "apt install python$version python$version-venv"
            return
        fi
    done
    echo "install python3.11 and python3.11-venv (apt update first; without such packages, pyenv and uv have them)"
}

case "$(uname -s) $(uname -m)" in
    "Linux x86_64" | "Linux aarch64") ;;
    *) refuse "the server needs Linux on x86_64 or aarch64, and this is $(uname -s) on $(uname -m)" ;;
esac

if [ -n "${PYTHON:-}" ]; then
    choose "$PYTHON" || problem=${problem:-$PYTHON does not run}
else
    # The Python that .venv was made with comes first: a newer one on PATH is no reason to make it again.
    choose .venv/bin/python || choose python3.12 python3.11 python3.10 python3 || problem=${problem:-there is none on PATH}
fi
if [ -n "$problem" ]; then
    [ "$fault" = 4 ] && refuse "$problem"
    refuse "Python 3.10, 3.11 or 3.12 is needed, and $problem: $(advice), or name one with make PYTHON=/path/to/python3.11"
fi

# Made with another Python, at another path, or not to the end: .venv is made anew.
base=${found#* }
identity="$found in $PWD/.venv"
if [ "$(cat .venv/made-with 2>/dev/null)" != "$identity" ]; then
    [ ! -h .venv ] || refuse "$PWD/.venv is a link, and to make it anew would empty the folder that it leads to: remove it"
    echo "Making .venv with Python ${found%% *} ($base)"
    "$base" -I -m venv --clear .venv || refuse "$base could not make $PWD/.venv: the reason stands above"
    echo "$identity" >.venv/made-with
fi

unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN UV_SYSTEM_PYTHON
quiet=$([ -t 1 ] || echo --quiet)

with_pip() {
    # Python compiles what it imports: to compile all that is installed takes as long as all the rest.
    # shellcheck disable=SC2086  # both are lists of arguments
    .venv/bin/python -I -m pip install $quiet --no-user --no-compile --disable-pip-version-check ${PIP_ARGS:-} \
        "$@" -c requirements-lock.txt </dev/null
}

with_uv() {
    .venv/bin/uv pip install --python .venv/bin/python --torch-backend="${UV_TORCH_BACKEND:-auto}" \
        "$@" -c requirements-lock.txt </dev/null
}

# What pip is told here that uv would not hear of: all but how pip talks, waits and keeps what it has fetched.
pip_settings() {
    [ -z "${PIP_ARGS:-}" ] || echo PIP_ARGS
    .venv/bin/python -I -m pip config list | sed -nE "s/^(global|install|:env:)\.([a-z-]+)='.+'$/\2/p" | sort -u |
        while read -r name; do
            case $name in
                args | *cache-dir | config-file | disable-pip-version-check | *timeout | retries | log) ;;
                no-color | no-input | progress-bar | quiet | verbose | require-virtualenv | root-user-action | user) ;;
                *) echo "$name" ;;
            esac
        done
}

# Print why uv cannot install a list. Where there is no network, that must not take long to find out.
problem_of_uv() (
    export PIP_RETRIES="${PIP_RETRIES:-1}" UV_HTTP_RETRIES="${UV_HTTP_RETRIES:-1}"
    export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-15}" UV_HTTP_CONNECT_TIMEOUT="${UV_HTTP_CONNECT_TIMEOUT:-5}"
    if [ ! -x .venv/bin/uv ] && ! with_pip --quiet uv >/dev/null 2>&1; then
        echo "it cannot be fetched"
    elif ! said=$(with_uv --quiet --dry-run -r "$1" 2>&1); then
        echo "$said" | sed -nE '$s/^[^[:alnum:]]*((cause|Caused by): )?//p'
    fi
)

# install_list FILE: with uv, or else with pip.
install_list() {
    # shellcheck disable=SC2046  # names
    set -- "$1" $(pip_settings)
    list=$1
    shift
    if [ $# -gt 0 ]; then
        echo "pip installs, not uv, for pip is set up here: $*"
    elif problem=$(problem_of_uv "$list") && [ -n "$problem" ]; then
        echo "pip installs, for uv cannot: $problem"
    elif with_uv $quiet -r "$list"; then
        return
    else
        echo "pip installs, for uv could not: the reason stands above"
    fi
    with_pip -r "$list"
}

# All that decides what is installed for a list: it, those that it includes, and the pins.
pins() {
    # shellcheck disable=SC2046  # names of files
    cat "$1" $(sed -n 's/^-r //p' "$1") requirements-lock.txt
}

# A stamp is a copy of the pins that .venv has; it is written only once they all are installed.
for file in "$@"; do
    stamp=.venv/installed-$file
    pins "$file" | cmp -s - "$stamp" && continue
    echo "Installing $file into .venv (a few minutes when PyTorch is among it)"
    rm -f "$stamp"
    install_list "$file" ||
        refuse "pip could not install $file: the reason stands above (no network, a full disk?); then run make again"
    pins "$file" >"$stamp"
done
