package bpf

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	_ "embed"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/internal/ring"
)

// verifierCost is what a kernel's verifier says of a program.
type verifierCost struct {
	Instructions int `json:"instructions"` // processed, of a million
	Stack        int `json:"stack"`        // sum of the frames' depths in octets
	States       int `json:"states"`       // kept at the peak
}

//go:embed verifier.json
var verifierBaseline []byte

// release is the running kernel's series, as 6.1.
func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	m := regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(u.Release[:]))
	if m == "" {
		t.Fatal("no kernel release")
	}
	return m
}

// TestVerifierCost holds the programs against the committed baseline of this
// kernel's series: a tenth more fails. A series without one must stay below
// three quarters of the verifier's limit.
// SLUICE_VERIFIER_BASELINE=file writes what was measured into the file.
func TestVerifierCost(t *testing.T) {
	ring.Needs(t, ring.Root)
	var baseline map[string]map[string]verifierCost
	must(t, json.Unmarshal(verifierBaseline, &baseline))
	series := release(t)
	measured := map[string]verifierCost{}
	for _, source := range []func() (*ebpf.CollectionSpec, error){LoadXDP, LoadTC, LoadControl} {
		spec, err := source()
		must(t, err)
		for _, m := range spec.Maps {
			m.MaxEntries = min(m.MaxEntries, 16)
		}
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
			Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
		})
		must(t, err)
		for name, p := range c.Programs {
			measured[name] = parseCost(t, p.VerifierLog)
		}
		c.Close()
	}
	for name, got := range measured {
		want, known := baseline[series][name]
		t.Logf("%s: %+v, baseline %+v", name, got, want)
		switch {
		case !known && got.Instructions > 750_000:
			t.Errorf("%s: %d instructions on %s, which has no baseline: too near the limit of a million", name, got.Instructions, series)
		case known && (got.Instructions*10 > want.Instructions*11 || got.Stack*10 > want.Stack*11):
			t.Errorf("%s: %+v on %s, baseline %+v: mend it, or commit the new figures with the reason", name, got, series, want)
		}
	}
	if file := os.Getenv("SLUICE_VERIFIER_BASELINE"); file != "" {
		baseline[series] = measured
		b, err := json.MarshalIndent(baseline, "", "\t")
		must(t, err)
		must(t, os.WriteFile(file, append(b, '\n'), 0o644))
	}
	b, err := json.Marshal(measured)
	must(t, err)
	fmt.Printf("verifier %s %s\n", series, b)
}

func parseCost(t *testing.T, log string) (c verifierCost) {
	t.Helper()
	m := regexp.MustCompile(`processed (\d+) insns .*peak_states (\d+)`).FindStringSubmatch(log)
	depth := regexp.MustCompile(`stack depth ([\d+]+)`).FindStringSubmatch(log)
	if m == nil || depth == nil {
		t.Fatalf("the verifier's log has no figures: %q", log)
	}
	c.Instructions, _ = strconv.Atoi(m[1])
	c.States, _ = strconv.Atoi(m[2])
	for _, s := range strings.Split(depth[1], "+") {
		n, _ := strconv.Atoi(s)
		c.Stack += n
	}
	return c
}
