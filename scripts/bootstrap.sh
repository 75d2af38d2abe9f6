# Makes the environment that scripts/run, scripts/test and scripts/check need; they source it.
# POSIX shell, no side effects beyond $venv and, with the right to do so, Debian packages.
#
#   MIRROR_SYNC_PYTHON   the Python to use instead of the first good one on PATH
#   MIRROR_SYNC_VENV     an environment to use instead of .venv; dependencies go into it,
#                        the package itself runs from this checkout

root=$(cd "$(dirname "$0")/.." && pwd -P)
venv=${MIRROR_SYNC_VENV:-$root/.venv}
apt_updated=no

say() {
    printf '%s\n' "$*" >&2
}

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do
        printf '  %s\n' "$line" >&2
    done
    exit 1
}

# ---------------------------------------------------------------- packages of the system

# may_install: succeeds when we may call apt-get, silently or by asking the person at the terminal.
may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" -eq 0 ] && return 0
    command -v sudo >/dev/null 2>&1 || return 1
    sudo -n true 2>/dev/null && return 0
    [ -t 0 ] && [ -t 2 ] || return 1
    case " $(id -nG) " in
        *" sudo "* | *" wheel "* | *" admin "*) return 0 ;;
    esac
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@" </dev/null
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# apt ARGUMENT...: apt-get; what it says is shown only when it fails.
apt() {
    apt_log=$(mktemp)
    apt_status=0
    as_root apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 -qq "$@" >"$apt_log" 2>&1 || apt_status=$?
    [ "$apt_status" -eq 0 ] || tail -n 20 "$apt_log" >&2
    rm -f "$apt_log"
    return "$apt_status"
}

# install_packages NAME...: installs them or fails; apt's lists are fetched at most once.
install_packages() {
    if [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; then
        say "installing $* ..."
    else
        say "installing $* ... (sudo may ask for your password)"
    fi
    if [ "$apt_updated" = no ]; then
        apt update || say "apt-get update failed; trying with the lists that are here"
        apt_updated=yes
    fi
    apt install -y --no-install-recommends "$@"
}

apt_line() {
    printf 'sudo apt-get update && sudo apt-get install -y --no-install-recommends %s' "$*"
}

# ---------------------------------------------------------------- Python and git

python_is_good() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python_makes_venvs() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

# find_python: sets $python to a Python 3.11 or newer, one that makes environments if there is one.
find_python() {
    python=
    for candidate in ${MIRROR_SYNC_PYTHON:-python3.13 python3.12 python3.11 python3 python3.14}; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        python_is_good "$candidate" || continue
        [ -n "$python" ] || python=$candidate
        if python_makes_venvs "$candidate"; then
            python=$candidate
            return 0
        fi
    done
    [ -n "$python" ]
}

git_is_good() {
    version=$(git version 2>/dev/null | sed -n 's/^git version \([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\1 \2/p')
    [ -n "$version" ] || return 1
    # shellcheck disable=SC2086 # two words on purpose
    set -- $version
    [ "$1" -gt 2 ] || { [ "$1" -eq 2 ] && [ "$2" -ge 39 ]; }
}

# missing_from_system: prints the Debian packages that would make git and Python good enough.
missing_from_system() {
    git_is_good || printf 'git ca-certificates '
    if [ -x "$venv/bin/python" ] && venv_works; then
        return 0
    fi
    if ! find_python; then
        printf 'python3 python3-venv '
    elif ! python_makes_venvs "$python"; then
        printf 'python3-venv '
    fi
}

# ensure_system: installs what is missing where we may.  What is still missing is told by
# ensure_venv, all at once, since an environment can often be made another way.
ensure_system() {
    packages=$(missing_from_system)
    if [ -n "$packages" ] && may_install; then
        # shellcheck disable=SC2086 # several words on purpose
        install_packages $packages || say "apt-get could not install $packages; looking for another way"
    fi
}

# has_pip: the environment works and can install.
has_pip() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

# The ways to make an environment, best first. Debian's Python lacks ensurepip unless
# python3-venv is installed, so each of the others gets pip from somewhere else.
make_venv_by_ensurepip() {
    python_makes_venvs "$python" && "$python" -m venv "$venv" >/dev/null 2>&1 && has_pip
}

make_venv_by_virtualenv() {
    { "$python" -m virtualenv --quiet "$venv" || virtualenv --quiet --python "$python" "$venv"; } >/dev/null 2>&1 && has_pip
}

make_venv_by_pip() {
    "$python" -m venv --without-pip "$venv" >/dev/null 2>&1 || return 1
    "$python" -m pip --python "$venv/bin/python" install --quiet pip >/dev/null 2>&1 && has_pip
}

make_venv_by_wheel() {
    "$python" -m venv --without-pip "$venv" >/dev/null 2>&1 || return 1
    for wheel in /usr/share/python-wheels/pip-*.whl /usr/lib/python3*/site-packages/ensurepip/_bundled/pip-*.whl; do
        [ -f "$wheel" ] || continue
        "$venv/bin/python" "$wheel/pip" install --quiet --no-index "$wheel" >/dev/null 2>&1 && has_pip && return 0
    done
    return 1
}

make_venv_by_uv() {
    command -v uv >/dev/null 2>&1 || return 1
    uv venv --quiet --seed --python "${python:-3.11}" "$venv" >/dev/null 2>&1 && has_pip
}

try_ways() {
    for way in ensurepip virtualenv pip wheel uv; do
        case $way in
            uv) ;;
            *) [ -n "$python" ] || continue ;;
        esac
        if "make_venv_by_$way"; then
            return 0
        fi
        remove_venv
    done
    return 1
}

# remove_venv: removes an environment that we made or were making, nothing else.
remove_venv() {
    if [ -e "$venv/pyvenv.cfg" ] || [ ! -e "$venv" ]; then
        rm -rf "$venv"
    else
        fail "$venv exists and is no Python environment" "move it away, or name another place with MIRROR_SYNC_VENV"
    fi
}

# lock_venv, unlock_venv: one bootstrap at a time works on $venv.
lock_venv() {
    command -v flock >/dev/null 2>&1 || return 0
    [ -w "$(dirname "$venv")" ] || return 0
    exec 9>"$venv.lock"
    flock -n 9 || {
        say "waiting for another bootstrap of $venv ..."
        flock 9
    }
}

unlock_venv() {
    exec 9>&-
}

venv_works() {
    python_is_good "$venv/bin/python" && has_pip
}

# ensure_venv: git is good, $venv/bin/python runs, is new enough and has pip; else says all that is missing.
ensure_venv() {
    lacks=
    packages=
    if ! git_is_good; then
        lacks="git 2.39 or newer (here is: $(git version 2>/dev/null || echo 'no git'))"
        packages=git
    fi
    if ! { [ -x "$venv/bin/python" ] && venv_works; }; then
        make_venv
    fi
    [ -z "$lacks" ] || fail "this machine lacks $lacks" \
        "as an administrator: $(apt_line "$packages")" \
        "Debian 12, Ubuntu 24.04 and newer have all of it new enough." \
        "Without an administrator: put uv (which brings Python) and git on PATH, or name a Python in MIRROR_SYNC_PYTHON."
}

make_venv() {
    if [ -e "$venv" ]; then
        say "$venv does not work any more; making it anew"
        remove_venv
    fi
    say "making the Python environment $venv ..."
    find_python || true
    try_ways && return 0
    if [ -z "$python" ]; then
        lacks="${lacks:+$lacks and }Python 3.11 or newer (here is: $(python3 --version 2>/dev/null || echo 'no python3'))"
        packages="${packages:+$packages }python3 python3-venv"
    else
        lacks="${lacks:+$lacks and }a way to make an environment ($python has no ensurepip; no virtualenv, pip or uv is here)"
        packages="${packages:+$packages }python3-venv"
    fi
}

# ---------------------------------------------------------------- packages of Python

fingerprint() {
    cat "$@" | sha256sum | cut -d' ' -f1
}

# ensure_locked NAME: what requirements/NAME.txt pins is installed, exactly; cheap when it is already.
ensure_locked() {
    wanted=$(fingerprint "$root/requirements/$1.txt")
    stamp=$venv/.mirror-sync-$1
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    say "installing what requirements/$1.txt pins ..."
    rm -f "$stamp"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --require-hashes --requirement "$root/requirements/$1.txt" >&2 ||
        fail "pip could not install requirements/$1.txt" \
            "its own message is above; behind a proxy set HTTPS_PROXY, with a local package index set PIP_INDEX_URL," \
            "then run this again: it goes on from here"
    printf '%s\n' "$wanted" >"$stamp"
    # the test lock is made under the constraints of the run lock and holds all of it
    [ "$1" = run ] || fingerprint "$root/requirements/run.txt" >"$venv/.mirror-sync-run"
}

# ensure_package: the command mirror-sync is in the environment and runs this checkout.
ensure_package() {
    [ -z "${MIRROR_SYNC_VENV:-}" ] || return 0
    wanted=$(printf '%s\n' "$root" | cat - "$root/pyproject.toml" | sha256sum | cut -d' ' -f1)
    stamp=$venv/.mirror-sync-package
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$venv/bin/mirror-sync" ]; then
        return 0
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --no-deps --no-build-isolation --no-index --editable "$root" >&2 ||
        fail "pip could not install this checkout into $venv" "its own message is above"
    printf '%s\n' "$wanted" >"$stamp"
}

# run_python ARGUMENT...: replaces this shell by the environment's Python on this checkout.
run_python() {
    if [ -n "${MIRROR_SYNC_VENV:-}" ]; then
        PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
        export PYTHONPATH
    fi
    exec "$venv/bin/python" "$@"
}
