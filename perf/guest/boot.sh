#!/usr/bin/env bash
# boot.sh SERIES JOBDIR: boot Debian's SERIES kernel (6.1 or 6.12) in QEMU under
# software emulation, run JOBDIR/run line by line in a copy of JOBDIR, print the
# console, and exit with 0 only when every line did.
#   ICOUNT=1   one guest nanosecond is one instruction: times are instruction counts
#   TIMEOUT=N  seconds before the guest is given up (default 1500)
#   MEM=N      guest memory in MiB (default 2048)
set -euo pipefail
series=${1:?usage: boot.sh SERIES JOBDIR}; job=${2:?usage: boot.sh SERIES JOBDIR}
here=$(cd "$(dirname "$0")" && pwd); top=$(cd "$here/../.." && pwd)
cache=$top/.cache/guest/$series
for t in qemu-system-x86_64 cpio xz depmod; do
	PATH=$PATH:/sbin:/usr/sbin command -v $t >/dev/null || { echo "boot.sh: $t is missing: apt-get install qemu-system-x86 cpio xz-utils kmod" >&2; exit 1; }
done
export PATH=$PATH:/sbin:/usr/sbin

# The newest kernel package of the series, unpacked beside the build, never installed.
if [ ! -e "$cache/ready" ]; then
	case $series in
	6.1) pattern='^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' ;;
	*) pattern="^linux-image-${series//./\\.}\\.[0-9]+\\+deb[0-9]+-cloud-amd64\$" ;;
	esac
	package=$(apt-cache search --names-only "$pattern" | awk '{print $1}' | sort -V | tail -1)
	[ -n "$package" ] || { echo "boot.sh: no Debian kernel of series $series in the package lists: run apt-get update" >&2; exit 1; }
	rm -rf "$cache"; mkdir -p "$cache"
	(cd "$cache" && apt-get download "$package" >/dev/null 2>&1 && dpkg-deb -x ./*.deb . && rm -f ./*.deb)
	find "$cache/lib/modules" -name '*.ko.xz' -exec xz -d {} +
	version=$(basename "$cache"/lib/modules/*)
	depmod -b "$cache" "$version"
	echo "$version" >"$cache/ready"
fi
version=$(cat "$cache/ready")

root=$(mktemp -d "${TMPDIR:-/tmp}/guest.XXXXXX"); trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{modules,job,dev,proc,sys,tmp,run,bin}
cp -a "$job"/. "$root/job/"
(cd "$top" && CGO_ENABLED=0 go build -trimpath -o "$root/init" ./perf/guest/init)
for m in veth dummy 8021q sch_ingress cls_bpf act_bpf aesni_intel; do
	modprobe -d "$cache" -S "$version" --show-depends "$m" 2>/dev/null | awk '$1 == "insmod" {print $2}' | while read -r ko; do
		[ -e "$root/modules/$(basename "$ko")" ] && continue
		cp "$ko" "$root/modules/"; basename "$ko" >>"$root/modules/list"
	done
done
image=$root.cpio; trap 'rm -rf "$root" "$image"' EXIT
(cd "$root" && find . | cpio --quiet -o -H newc) >"$image"

accel=tcg
[ -n "${ICOUNT:-}" ] && accel=tcg,thread=single
# -erms: TCG counts every iteration of rep movsb as an instruction.
args=(-accel "$accel" -cpu max,-erms -m "${MEM:-2048}" -smp 1 -display none -no-reboot -nodefaults -serial stdio -nic none
	-kernel "$cache/boot/vmlinuz-$version" -initrd "$image"
	-append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable ${APPEND:-}")
[ -n "${ICOUNT:-}" ] && args=(-icount shift=0,sleep=off "${args[@]}")
log=$root/console
timeout "${TIMEOUT:-1500}" nice qemu-system-x86_64 "${args[@]}" </dev/null 2>&1 | tee "$log" || true
grep -q '^guest: 0 failed' "$log" || { echo "boot.sh: the guest's job failed on $series ($version)" >&2; exit 1; }
