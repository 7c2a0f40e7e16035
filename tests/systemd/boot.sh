#!/bin/sh
# Run by unshare(1), as process 1 of a pid namespace: goes on as systemd. $1 is where everything was installed to, $2 a name that
# nobody else has, $3 the program.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
mount --make-rprivate /
mount --bind "$1" /usr/local
# What is to be run may lie in what is hidden next.
mount --bind "$root" /mnt
# Before anything else is started: systemd-tmpfiles, if anybody ran it, would empty the machine's.
mount -t tmpfs tmpfs /tmp
mkdir -p "$root"
mount --bind /mnt "$root"
umount /mnt
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$2"
echo 0 >"/sys/fs/cgroup/$2/cgroup.procs"
# The second shell expands it.
# shellcheck disable=SC2016
exec unshare -C sh -euc '
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    export container=uffd-restore-test SYSTEMD_UNIT_PATH=/usr/local/lib/systemd/system
    unset NOTIFY_SOCKET LISTEN_FDS LISTEN_PID
    exec "$1" --system --unit=test.target --log-target=console --show-status=0
' sh "$3"
