#!/bin/sh
# Installs the package into a fresh Debian tree, runs what it installs with the unit's rights, goes a newcomer's path with it
# (newcomer.sh), and removes it again: nothing may be left.
# Needs root. The tree is laid over with memory, in namespaces of this run's own: it stays as it was.
#     check-package.sh PACKAGE.deb TREE
set -eu
if [ "${3-}" != inside ]; then
    exec unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$1" "$2" inside
fi
package=$1
tree=$2
root=$(mktemp -d)
# The mounts end with this namespace; the directory does not.
trap 'umount --lazy "$root" && rmdir "$root"' EXIT
mount -t tmpfs -o mode=755 package "$root"
mkdir "$root/upper" "$root/work" "$root/tree"
mount -t overlay -o "lowerdir=$tree,upperdir=$root/upper,workdir=$root/work" package "$root/tree"
root_tree=$root/tree
mount -t proc proc "$root_tree/proc"
mount -t sysfs sys "$root_tree/sys"
mount -t bpf bpf "$root_tree/sys/fs/bpf"
mount -t tmpfs run "$root_tree/run"
within() { chroot "$root_tree" "$@"; }
fail() {
    echo "check-package: $*" >&2
    exit 1
}
# What dpkg writes about all packages is no file of this one's.
files() { within find / -xdev -path /tmp -prune -o -path '/var/lib/dpkg/*' -prune -o -path '/var/log/*' -prune -o -print | sort; }

cp "$package" "$root_tree/tmp/package.deb"
before=$(files)
within dpkg --install /tmp/package.deb
within ftp-helper --version
within ftp-helper check | grep -q observe || fail "the configuration that is installed does not observe"
for file in usr/share/man/man1/ftp-helper.1.gz usr/share/man/man1/ftp-helper-run.1.gz \
    usr/share/man/man5/ftp-helper.toml.5.gz usr/share/man/man7/ftp-helper-events.7.gz usr/share/ftp-helper/ftp-helper.schema.json \
    usr/share/bash-completion/completions/ftp-helper usr/share/zsh/vendor-completions/_ftp-helper \
    usr/share/fish/vendor_completions.d/ftp-helper.fish \
    usr/share/ftp-helper/prometheus/ftp-helper.rules.yml usr/share/ftp-helper/grafana/ftp-helper.json usr/share/doc/ftp-helper/copyright; do
    [ -s "$root_tree/$file" ] || fail "/$file is not there"
done
unit=$(within sh -c 'ls /usr/lib/systemd/system/ftp-helper.service /lib/systemd/system/ftp-helper.service 2>/dev/null' | head -n 1)
[ -n "$unit" ] || fail "the unit is not there"

# The unit's command line with exactly the unit's rights and system calls.
command=$(sed -n 's/^ExecStart=//p' "$root_tree/$unit")
group=$(sed -n 's/^SupplementaryGroups=//p' "$root_tree/$unit")
rights=$(sed -n 's/^CapabilityBoundingSet=//p' "$root_tree/$unit" | sed 's/CAP_/+/g; s/ /,/g' | tr 'A-Z' 'a-z')
filter=$(dirname "$0")/unit-filter.py
cp "$filter" "$root_tree/tmp/unit-filter.py"
"$filter" list "$root_tree/$unit" >"$root_tree/tmp/calls"
mkdir "$root_tree/run/ftp-helper"
start() {
    # shellcheck disable=SC2086 # The unit's words.
    chroot "$root_tree" setpriv --bounding-set "-all,$rights" --inh-caps "-all,$rights" --groups "$group" --no-new-privs \
        python3 -B /tmp/unit-filter.py run /tmp/calls $command &
    daemon=$!
    tries=0
    until within ftp-helper status >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] && kill -0 $daemon || fail "the daemon does not answer"
        sleep 0.1
    done
}
stop() {
    kill -TERM $daemon
    wait $daemon || fail "the daemon has failed"
    [ ! -e "$root_tree/sys/fs/bpf/ftp-helper" ] || fail "the daemon has left pins: $(find "$root_tree/sys/fs/bpf/ftp-helper")"
}

# It attaches, answers, and leaves nothing.
ip link set lo up
ip link add wan0 type veth peer name peer0
ip link set wan0 up
start
within ftp-helper status | grep -q wan0 || fail "the daemon is not attached"
within stat -c %G /run/ftp-helper/ftp-helper.sock | grep -qx "$group" || fail "the control socket is not the group's"
stop
ip link delete wan0

# shellcheck source=packaging/newcomer.sh
. "$(dirname "$0")/newcomer.sh"
cp "$root_tree/etc/nftables.conf" "$root_tree/etc/ftp-helper/ftp-helper.toml" "$root"
newcomer
cp "$root/nftables.conf" "$root_tree/etc/"
cp "$root/ftp-helper.toml" "$root_tree/etc/ftp-helper/"

# Removed, it takes along what a daemon that was killed has left in the kernel.
wait_for "the newcomer's interfaces are gone" sh -c '! ip link show wan0'
ip link add wan0 type veth peer name peer0
ip link set wan0 up
start
kill -KILL $daemon
wait $daemon || :
[ -e "$root_tree/sys/fs/bpf/ftp-helper" ] || fail "the daemon that was killed has left nothing to a next one"

within dpkg --purge ftp-helper
[ ! -e "$root_tree/sys/fs/bpf/ftp-helper" ] || fail "removed, it leaves pins: $(find "$root_tree/sys/fs/bpf/ftp-helper")"
after=$(files)
if [ "$before" != "$after" ]; then
    printf '%s\n' "$before" >"$root/before"
    printf '%s\n' "$after" | diff "$root/before" - >&2 || true
    fail "removed, it leaves files"
fi
echo "check-package: installed, run, gone through as a newcomer does, and removed without a trace"
