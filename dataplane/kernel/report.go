package kernel

import (
	"fmt"
	"strings"

	"github.com/sluicegw/sluice/dataplane"
)

// Paths of an interface, as Forwarder.Path tells them.
const (
	PathNative  = "kernel:xdp-native"
	PathGeneric = "kernel:xdp-generic"
	PathTC      = "kernel:tc"
	PathUser    = "user"
)

// Report is what the probes at start found.
type Report struct {
	// Reason says why no interface at all is served by the kernel, or
	// ReasonNone; Detail says it in words.
	Reason dataplane.Reason
	Detail string

	Kernel string // release, as uname -r
	PinDir string
	Layout uint32 // version of the maps this binary works with
	// Adopted tells that programs and maps of an earlier run were found and
	// kept; Replaced that those of another layout were replaced.
	Adopted, Replaced bool
	Orphans           int // streams found that no call owns

	TCX        bool // tc programs are attached as links (6.6 and later)
	Interfaces []InterfaceReport
}

// InterfaceReport is how one interface is served, and why not better.
type InterfaceReport struct {
	Name   string
	Index  int
	Driver string // kind of link, e.g. "veth", "device"
	Path   string
	Reason dataplane.Reason // set when Path is "user"
	Why    string           // what stood against a faster path, "" for native XDP
}

// String is one line per interface, for logs and `dataplane status`.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kernel %s, layout %d, pinned under %s", r.Kernel, r.Layout, r.PinDir)
	switch {
	case r.Reason != dataplane.ReasonNone:
		fmt.Fprintf(&b, ": user engine (%s: %s)", r.Reason, r.Detail)
	case r.Adopted:
		fmt.Fprintf(&b, ", adopted with %d orphaned streams", r.Orphans)
	case r.Replaced:
		b.WriteString(", replaced another layout")
	}
	for _, i := range r.Interfaces {
		fmt.Fprintf(&b, "\n%s: %s", i.Name, i.Path)
		if i.Reason != dataplane.ReasonNone {
			fmt.Fprintf(&b, " (%s)", i.Reason)
		}
		if i.Why != "" {
			fmt.Fprintf(&b, ": %s", i.Why)
		}
	}
	return b.String()
}

// UnavailableError tells that the kernel cannot serve any interface. The plane
// then runs every call on the user engine and gives Reason for it.
type UnavailableError struct {
	Reason dataplane.Reason
	Report Report
	Err    error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("kernel data plane: %s: %v", e.Reason, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }
