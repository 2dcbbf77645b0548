// Package ring says what a test needs from the machine it runs on.
//
// The tests of the project form rings: unit tests need nothing, packet tables
// and network namespaces need root, end-to-end tests need peers that are not
// ours. A test that needs something names it first:
//
//	ring.Needs(t, ring.Root, ring.Tool("baresip"))
//
// On a developer's machine without it the test is skipped with the reason. With
// CI=true it fails, so that no ring goes missing unseen.
package ring

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// TB is the part of testing.TB that Needs uses.
type TB interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
}

// Need looks for one thing and returns nil when it is there, or what is missing
// and how to get it.
type Need func() error

// Needs returns when every need is met. Otherwise the test is skipped, or fails
// when CI=true is in the environment; the message names all that is missing.
func Needs(t TB, needs ...Need) {
	t.Helper()
	var missing []string
	for _, n := range needs {
		if err := n(); err != nil {
			missing = append(missing, err.Error())
		}
	}
	if len(missing) == 0 {
		return
	}
	reason := "needs " + strings.Join(missing, "; ")
	if CI() {
		t.Fatal(reason + " (CI=true: a skipped ring is a failure)")
		return
	}
	t.Skip(reason)
}

// CI tells whether this run may skip nothing.
func CI() bool { return os.Getenv("CI") == "true" }

// Root is the need of an effective user id of 0: network namespaces, BPF.
func Root() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("root (run as root, or in a user that may use sudo)")
	}
	return nil
}

// Tool is the need of a program in PATH, e.g. "baresip" or "sipp".
func Tool(name string) Need {
	return func() error {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s in PATH (make test-deps installs it)", name)
		}
		return nil
	}
}

// File is the need of an existing path, e.g. "/dev/net/tun"; hint says how to
// get it.
func File(path, hint string) Need {
	return func() error {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s (%s)", path, hint)
		}
		return nil
	}
}
