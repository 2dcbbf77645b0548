package kernel

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capability is a number of capabilities(7).
type capability int

// The capabilities the engine uses while it starts. CAP_PERFMON is among them
// because without it the verifier refuses table look-ups by data and adds
// speculation barriers to every branch.
const (
	capNetAdmin capability = unix.CAP_NET_ADMIN
	capSysAdmin capability = unix.CAP_SYS_ADMIN
	capPerfmon  capability = unix.CAP_PERFMON
	capBPF      capability = unix.CAP_BPF
)

func (c capability) String() string {
	switch c {
	case capNetAdmin:
		return "CAP_NET_ADMIN"
	case capSysAdmin:
		return "CAP_SYS_ADMIN"
	case capPerfmon:
		return "CAP_PERFMON"
	case capBPF:
		return "CAP_BPF"
	}
	return fmt.Sprintf("CAP_%d", int(c))
}

// capabilitySet is the effective set of a thread.
type capabilitySet uint64

func (s capabilitySet) has(c capability) bool { return s&(1<<uint(c)) != 0 }

// missing names what is needed to load and attach programs and is not there.
// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, as in the kernel.
func (s capabilitySet) missing() []string {
	var names []string
	for _, c := range []capability{capBPF, capPerfmon} {
		if !s.has(c) && !s.has(capSysAdmin) {
			names = append(names, c.String())
		}
	}
	if !s.has(capNetAdmin) {
		names = append(names, capNetAdmin.String())
	}
	return names
}

func effectiveCapabilities() (capabilitySet, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	return capabilitySet(data[0].Effective) | capabilitySet(data[1].Effective)<<32, nil
}

// DropCapabilities takes every capability away from every thread of the
// process, for good, and forbids gaining any by exec. Call it once New has
// returned and every listener is open: installing, updating and removing flows
// needs only the descriptors that New opened. It fails with ENOTSUP in a
// program linked with cgo, which cannot change all its threads at once.
func DropCapabilities() error {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

func joinNames(names []string) string { return strings.Join(names, ", ") }
