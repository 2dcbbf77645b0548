package ring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorder stands in for a test: Skip and Fatal do not end the goroutine.
type recorder struct{ skipped, failed string }

func (*recorder) Helper()          {}
func (r *recorder) Skip(a ...any)  { r.skipped = fmt.Sprint(a...) }
func (r *recorder) Fatal(a ...any) { r.failed = fmt.Sprint(a...) }

func absent() error  { return errors.New("a unicorn") }
func present() error { return nil }

func TestNeeds(t *testing.T) {
	for _, tc := range []struct {
		name         string
		ci           string
		needs        []Need
		skips, fails string
	}{
		{name: "nothing missing", ci: "true", needs: []Need{present}},
		{name: "missing at a developer's", needs: []Need{present, absent}, skips: "needs a unicorn"},
		{name: "missing in CI", ci: "true", needs: []Need{absent}, fails: "needs a unicorn"},
		{name: "all are named", needs: []Need{absent, Tool("no-such-tool")}, skips: "a unicorn; no-such-tool in PATH"},
		{name: "CI=false skips", ci: "false", needs: []Need{absent}, skips: "needs a unicorn"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("CI", tc.ci)
			var r recorder
			Needs(&r, tc.needs...)
			if (tc.skips == "") != (r.skipped == "") || !strings.Contains(r.skipped, tc.skips) {
				t.Errorf("skipped with %q, want %q", r.skipped, tc.skips)
			}
			if (tc.fails == "") != (r.failed == "") || !strings.Contains(r.failed, tc.fails) {
				t.Errorf("failed with %q, want %q", r.failed, tc.fails)
			}
		})
	}
}

func TestToolAndFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "peer"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if err := Tool("peer")(); err != nil {
		t.Errorf("a tool in PATH: %v", err)
	}
	if err := Tool("other")(); err == nil {
		t.Error("a tool that is not in PATH was found")
	}
	if err := File(dir, "")(); err != nil {
		t.Errorf("a path that exists: %v", err)
	}
	if err := File(filepath.Join(dir, "none"), "make it")(); err == nil || !strings.Contains(err.Error(), "make it") {
		t.Errorf("a missing path: got %v, want the hint", err)
	}
}

func TestRoot(t *testing.T) {
	if err := Root(); (err == nil) != (os.Geteuid() == 0) {
		t.Errorf("Root() = %v with uid %d", err, os.Geteuid())
	}
}
