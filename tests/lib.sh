# Shared by tests/run and tests/demo: finds the tree, becomes root, installs packages, runs cargo as its owner.
# Sourced, never run. Bash.

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
# `target/` is source here. Cargo reads the setting from the current directory upwards; this one holds everywhere.
export CARGO_TARGET_DIR=$root/.build
# Not everybody's PATH has the administrator's tools.
export PATH=$PATH:/usr/sbin:/sbin

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# become_root REASON ARGUMENT... : returns as root, or starts the script again through sudo with the same arguments.
become_root() {
    local reason=$1
    shift
    [ "$EUID" -eq 0 ] && return
    command -v sudo >/dev/null || die "$reason, and this machine has no sudo. Nothing was run. Run it as root: su -c '$(readlink -f "$0")'"
    echo "$reason: running this again through sudo."
    exec sudo -- "$(readlink -f "$0")" "$@"
}

# install_packages TOOL=PACKAGE... : installs the packages of the tools that are missing, and nothing else. A tool is a
# program, or the path of a file.
install_packages() {
    local entry missing=()
    for entry in "$@"; do
        command -v "${entry%%=*}" >/dev/null || [ -e "${entry%%=*}" ] || missing+=("${entry#*=}")
    done
    # The compiler package only recommends the C library's headers and start files, which linking needs.
    if [[ " ${missing[*]} " == *" gcc "* ]]; then missing+=(libc6-dev); fi
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "this machine has no apt-get; install by hand: ${missing[*]}"
    echo "Installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || die "apt-get update failed; it is needed to install: ${missing[*]}"
    apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null || die "apt-get could not install: ${missing[*]}"
}

# find_cargo : finds the toolchain of the person who typed the command, also behind sudo.
find_cargo() {
    local home=$HOME
    builder=()
    if [ -n "${SUDO_UID:-}" ] && [ "$SUDO_UID" != 0 ]; then
        home=$(getent passwd "$SUDO_UID" | cut -d: -f6)
        [ -n "$home" ] || die "user $SUDO_UID, who called sudo, has no home directory; run it as root instead"
        # What cargo writes must stay the user's: it runs as the user, and files root's tests leave are given back.
        builder=(setpriv --reuid "$SUDO_UID" --regid "${SUDO_GID:-$SUDO_UID}" --init-groups env "HOME=$home")
        give_build_back
        trap give_build_back EXIT
    fi
    export CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    export PATH=$CARGO_HOME/bin:$PATH
    command -v cargo >/dev/null || die "no Rust toolchain found; install one from https://rustup.rs and run this again"
}

give_build_back() {
    mkdir -p "$CARGO_TARGET_DIR"
    chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$CARGO_TARGET_DIR"
}

# build ARGUMENT... : cargo as the owner of the tree. Always from the root of the tree, see `target/` above.
build() {
    (cd "$root" && "${builder[@]}" cargo "$@")
}
