package main

import (
	"strings"
	"testing"
)

func events(lines ...string) *strings.Reader { return strings.NewReader(strings.Join(lines, "\n")) }

func TestCount(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events []string
		want   string
		ok     bool
		strict bool
		shown  string
	}{
		{name: "nothing ran", want: "0 passed, 0 failed, 0 skipped"},
		{name: "subtests count, their parent does not", events: []string{
			`{"Action":"pass","Package":"p","Test":"TestA/one"}`,
			`{"Action":"pass","Package":"p","Test":"TestA/two/deep"}`,
			`{"Action":"pass","Package":"p","Test":"TestA/two"}`,
			`{"Action":"pass","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p","Test":"TestB"}`,
			`{"Action":"pass","Package":"p"}`,
		}, want: "3 passed, 0 failed, 0 skipped", ok: true, strict: true},
		{name: "a failed subtest is one failure and is shown", events: []string{
			`{"Action":"output","Package":"p","Test":"TestA/one","Output":"wrong tone\n"}`,
			`{"Action":"fail","Package":"p","Test":"TestA/one"}`,
			`{"Action":"fail","Package":"p","Test":"TestA"}`,
			`{"Action":"fail","Package":"p"}`,
		}, want: "0 passed, 1 failed, 0 skipped", shown: "wrong tone"},
		{name: "a parent that fails by itself counts", events: []string{
			`{"Action":"pass","Package":"p","Test":"TestA/one"}`,
			`{"Action":"fail","Package":"p","Test":"TestA"}`,
			`{"Action":"fail","Package":"p"}`,
		}, want: "1 passed, 1 failed, 0 skipped"},
		{name: "a package that panics is a failure", events: []string{
			`{"Action":"output","Package":"p","Output":"panic: index out of range\n"}`,
			`{"Action":"fail","Package":"p"}`,
		}, want: "0 passed, 1 failed, 0 skipped", shown: "index out of range"},
		{name: "a skip is green for a developer only", events: []string{
			`{"Action":"pass","Package":"p","Test":"TestB"}`,
			`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: needs root\n"}`,
			`{"Action":"skip","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p"}`,
		}, want: "1 passed, 0 failed, 1 skipped", ok: true},
		{name: "a package without tests is nothing", events: []string{
			`{"Action":"skip","Package":"p"}`,
		}, want: "0 passed, 0 failed, 0 skipped"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCount()
			var shown strings.Builder
			if err := c.read(events(tc.events...), &shown); err != nil {
				t.Fatal(err)
			}
			if c.String() != tc.want {
				t.Errorf("counted %q, want %q", c, tc.want)
			}
			if c.OK(false) != tc.ok || c.OK(true) != tc.strict {
				t.Errorf("OK is %t and strictly %t, want %t and %t", c.OK(false), c.OK(true), tc.ok, tc.strict)
			}
			if !strings.Contains(shown.String(), tc.shown) {
				t.Errorf("shown %q, want %q in it", shown.String(), tc.shown)
			}
		})
	}
}

func TestSkipReason(t *testing.T) {
	c := newCount()
	if err := c.read(events(
		`{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}`,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: needs root (run as root)\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestA"}`), &strings.Builder{}); err != nil {
		t.Fatal(err)
	}
	if got := c.skips(); len(got) != 1 || got[0] != "p TestA: needs root (run as root)" {
		t.Errorf("skips are %q", got)
	}
}
