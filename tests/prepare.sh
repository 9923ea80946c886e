#!/bin/sh
# Installs the system packages that a make target needs, as root with apt; elsewhere says what to install.
#
#   tests/prepare.sh build      what the virtual environment is built with: an error when it is missing
#   tests/prepare.sh machines   what machines are booted with, and their root file systems: optional without root
#   tests/prepare.sh bench      what `make bench` needs beyond that: an error when it is missing
#   tests/prepare.sh run        what `make run` needs where no systemd runs
#   tests/prepare.sh machine    what `make run-machine` needs
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
missing=

have() { command -v "$1" >/dev/null 2>&1; }
need() { missing="$missing $1"; }

for_build() {
    have "$PYTHON" || need python3
    "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 || need python3-venv
    have gcc || have cc || need gcc
    "$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null || need python3-dev
    have pkg-config || need pkg-config
    pkg-config --exists libsystemd 2>/dev/null || need libsystemd-dev
    have systemd-analyze || need systemd
    [ -e /usr/share/zoneinfo/Europe/Berlin ] || need tzdata
}

for_machines() {
    have "$PYTHON" || need python3
    have systemd-nspawn || need systemd-container
    have mmdebstrap || need mmdebstrap
    { have unshare && have nsenter; } || need util-linux
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need debian-archive-keyring
    # Draws what `sdcron graph --svg` shows; without it that is not tested.
    have dot || need graphviz
    # Shells, to see what they offer for it.
    have zsh || need zsh
    have fish || need fish
}

for_bench() {
    [ -e /usr/lib/systemd/systemd-journal-remote ] || need systemd-journal-remote
}

install_missing() {
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && have apt-get; then
        echo "installing$missing"
        apt-get -qq update
        # shellcheck disable=SC2086  # a list of package names
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null
        missing=
        return 0
    fi
    return 1
}

refuse() {
    echo "missing packages; install them, as root:" >&2
    echo "    apt-get install$missing" >&2
    exit 1
}

check_python() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && return
    echo "$PYTHON is $("$PYTHON" --version 2>&1); sdcron needs Python 3.11 or newer (make PYTHON=python3.11 …)" >&2
    exit 1
}

case ${1:-} in
build)
    for_build
    install_missing || refuse
    check_python
    ;;
machines)
    # Without root the tests on machines are skipped and say so; with root they must run.
    [ "$(id -u)" = 0 ] && [ "${SDCRON_TEST_MACHINES:-}" != no ] || exit 0
    for_machines
    install_missing || exit 0
    "$PYTHON" -m tests.rootfs
    ;;
bench)
    for_machines
    for_bench
    install_missing || refuse
    "$PYTHON" -m tests.rootfs
    ;;
run)
    have "$PYTHON" || need python3
    "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 || need python3-venv
    install_missing || refuse
    check_python
    ;;
machine)
    if [ "$(id -u)" != 0 ]; then
        echo "only root can boot a throw-away machine: sudo make run-machine" >&2
        exit 1
    fi
    for_machines
    install_missing || refuse
    check_python
    ;;
*)
    echo "usage: tests/prepare.sh build|machines|bench|run|machine" >&2
    exit 2
    ;;
esac
