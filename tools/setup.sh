# Sets up, once, what this checkout needs. Sourced by the other tools, with $root set to the checkout.
# shellcheck shell=sh disable=SC2154

venv=$root/.venv
log=$root/.venv-setup.log

say() { printf 'lazyfs: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

any() { for file in "$@"; do [ ! -e "$file" ] || return 0; done; return 1; }

# set_up LEVEL: "run" is what lazyfs needs, "test" what its tests and checks need besides.
set_up() {
    ! ready "$1" || return 0
    (: >>"$log") 2>/dev/null || die "cannot write $log, so cannot set up $venv"
    exec 9>>"$log"
    flock -n 9 || { say "waiting for another set-up in $root"; flock 9; }
    if ! ready "$1"; then
        : >"$log"
        system_packages "$1"
        virtual_environment "$1"
    fi
    exec 9>&-
}

# This runs in front of every command, so it starts no Python. The stamp names what .venv was made from; it
# no longer matches when the checkout has moved, the interpreter was replaced, or what to install has changed.
ready() {
    [ -x "$venv/bin/lazyfs" ] && { IFS= read -r found <"$venv/ready-$1"; } 2>/dev/null &&
        [ "$found" = "$(stamp)" ]
}

stamp() {
    echo "$(origin_of_venv) $(cd "$root" && cat pyproject.toml setup.py tools/setup.sh lazyfs/native/*.[ch] | cksum)"
}

origin_of_venv() { printf '%s %s' "$root" "$(readlink -f "$venv/bin/python")"; }

# --- system packages: looked for by what they provide, so that any distribution will do; named as in Debian

system_packages() {
    missing=$(missing_packages "$1") || exit 1
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086
        install_packages $missing
        missing=$(missing_packages "$1") || exit 1
        [ -z "$missing" ] || die "still missing after installing packages: $missing; see $log"
    fi
    python=$(find_python)
}

missing_packages() {
    list=
    have gcc && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || list="$list gcc libc6-dev"
    have pkg-config || list="$list pkg-config"
    pkg-config --exists fuse3 2>/dev/null || list="$list libfuse3-dev"
    have gcc && echo '#include <xxhash.h>' | gcc -E - >/dev/null 2>&1 || list="$list libxxhash-dev"
    pkg-config --exists 'libssl >= 3' 2>/dev/null || list="$list libssl-dev"
    have fusermount3 || list="$list fuse3"
    if python=$(find_python); then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        has_headers "$python" || list="$list $version-dev"
        has_venv "$python" || list="$list $version-venv"
    elif [ -n "${PYTHON:-}" ] || have python3; then
        die "needs Python 3.11 or newer, and ${PYTHON:-python3} is older or does not run:" \
            "install one with its -dev and -venv packages, or name it in PYTHON"
    else
        list="$list python3 python3-dev python3-venv"
    fi
    if [ "$1" = test ]; then
        for need in curl:curl jq:jq nginx:nginx lighttpd:lighttpd caddy:caddy openssl:openssl mkfs.ext4:e2fsprogs \
            qemu-img:qemu-utils mkfs.erofs:erofs-utils mksquashfs:squashfs-tools fio:fio setfattr:attr \
            mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs systemd-analyze:systemd \
            docker-registry:docker-registry skopeo:skopeo umoci:umoci zstd:zstd busybox:busybox-static crun:crun \
            zsh:zsh fish:fish mandoc:mandoc \
            qemu-system-x86_64:qemu-system-x86 chromium:chromium; do
            have "${need%:*}" || list="$list ${need#*:}"
        done
        { have apache2 || have httpd; } && any /usr/lib*/apache2/modules/mod_ssl.so /usr/lib*/httpd/modules/mod_ssl.so ||
            list="$list apache2-bin"
        any /usr/lib*/lighttpd/mod_openssl.so || list="$list lighttpd-mod-openssl"
    fi
    printf '%s' "${list# }"
}

install_packages() {
    if ! have apt-get || ! can_be_root; then
        die "packages are missing; as root: apt-get install $* (Fedora: dnf install $(names_in_fedora "$*");" \
            "Arch: pacman -S $(names_in_arch "$*"))"
    fi
    say "installing system packages: $*"
    # The policy keeps Debian from starting web servers as services, and what comes last keeps them from being
    # started at the next boot. A daemon that a package does start must not keep our lock, hence 9>&-.
    # shellcheck disable=SC2016
    logged as_root env DEBIAN_FRONTEND=noninteractive sh -ec '
        policy=/usr/sbin/policy-rc.d
        if [ ! -e $policy ]; then
            trap "rm -f $policy" EXIT
            trap "exit 1" HUP INT TERM
            printf "#!/bin/sh\nexit 101\n" >$policy
            chmod 755 $policy
        fi
        apt-get update || echo "going on with the package lists there are"
        apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=600 "$@"
        for service in nginx lighttpd caddy docker-registry; do
            case " $* " in *" $service "*) systemctl disable $service || : ;; esac
        done
    ' sh "$@" 9>&-
}

can_be_root() {
    [ "$(id -u)" = 0 ] || { have sudo && { sudo -n true || true </dev/tty; } 2>/dev/null; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true; then sudo -n "$@"; else sudo "$@"; fi
}

names_in_fedora() {
    printf '%s' "$1" | sed 's/libfuse3-dev/fuse3-devel/; s/libxxhash-dev/xxhash-devel/; s/libssl-dev/openssl-devel/
        s/libc6-dev/glibc-devel/; s/pkg-config/pkgconf-pkg-config/
        s/\(python[0-9.]*\)-dev/\1-devel/; s/ *python[0-9.]*-venv//; s/qemu-utils/qemu-img/; s/busybox-static/busybox/
        s/apache2-bin/httpd mod_ssl/; s/lighttpd-mod-openssl/lighttpd-mod_openssl/'
}

names_in_arch() {
    printf '%s' "$1" | sed 's/libfuse3-dev/fuse3/; s/libxxhash-dev/xxhash/; s/libssl-dev/openssl/; s/libc6-dev/glibc/; s/pkg-config/pkgconf/
        s/python3 python3-dev python3-venv/python/; s/python[0-9.]*-\(dev\|venv\)/python/g; s/qemu-utils/qemu-img/; s/busybox-static/busybox/
        s/apache2-bin/apache/; s/lighttpd-mod-openssl/lighttpd/'
}

# --- Python and the virtual environment

# One that can build and hold the package is better than a newer one that cannot. A name on PATH is no proof:
# version managers leave stubs there that only print an error.
find_python() {
    for complete in true false; do
        for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
            ! $complete || { has_venv "$candidate" && has_headers "$candidate"; } || continue
            command -v "$candidate"
            return
        done
    done
    return 1
}

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

# No stamp stands while the environment is being changed, and one without any is made anew: whatever an
# interrupted set-up left behind is never believed.
virtual_environment() {
    reusable=false
    for found in "$venv"/ready-*; do
        case $(cat "$found" 2>/dev/null) in "$(origin_of_venv) "*) reusable=true ;; esac
    done
    rm -f "$venv"/ready-*
    if ! $reusable; then
        say "creating .venv with $("$python" --version 2>&1)"
        logged "$python" -m venv --clear "$venv"
    fi
    if [ "$1" = test ]; then
        say "installing lazyfs and what its tests need into .venv"
        logged "$venv/bin/python" -m pip install --upgrade 'pip>=25.1' # the first to know --group
        (cd "$root" && logged "$venv/bin/python" -m pip install -e . --group dev) || exit 1
    else
        say "installing lazyfs into .venv"
        (cd "$root" && logged "$venv/bin/python" -m pip install -e .) || exit 1
    fi
    # Else each start of who may not write here, or has PYTHONDONTWRITEBYTECODE set, compiles all of it: 0.1 s.
    logged "$venv/bin/python" -m compileall -q "$root/lazyfs"
    [ "$1" = run ] || stamp >"$venv/ready-$1"
    stamp >"$venv/ready-run"
}

logged() {
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null && return
    if [ -n "${CI:-}" ]; then tail -n 40 "$log" >&2; else tail -n 3 "$log" | cut -c 1-300 >&2; fi
    die "set-up failed; see $log"
}
