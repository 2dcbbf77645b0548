// Command testrun runs the project's rings of tests one after the other, shows
// what failed, and prints the count of tests as its last line:
//
//	N passed, N failed, N skipped
//
// It is what `make test` calls. Exit status 0 means that nothing failed and,
// with CI=true, that nothing was skipped.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

func main() {
	only := flag.String("rings", "", "comma-separated rings to run: "+strings.Join(ringNames(), ", ")+"; default all")
	summary := flag.String("summary", "", "file that the count is also written to")
	fuzztime := flag.Duration("fuzztime", 3*time.Second, "how long each fuzz target runs")
	flag.Parse()
	r := &run{out: os.Stdout, count: newCount(), fuzztime: *fuzztime}
	if err := r.rings(*only); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(2)
	}
	r.report()
	line := r.count.String()
	if *summary != "" {
		if err := writeSummary(*summary, line); err != nil {
			fmt.Fprintln(os.Stderr, "testrun:", err)
			os.Exit(2)
		}
	}
	fmt.Println(line)
	if !r.count.OK(ring.CI()) {
		os.Exit(1)
	}
}

func writeSummary(path, line string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(line+"\n"), 0o644)
}

// run is one run of the rings.
type run struct {
	out      io.Writer
	count    *count
	fuzztime time.Duration
}

func (r *run) rings(only string) error {
	names := ringNames()
	if only != "" {
		names = strings.Split(only, ",")
		for _, n := range names {
			if !slices.Contains(ringNames(), n) {
				return fmt.Errorf("no ring %q: choose from %s", n, strings.Join(ringNames(), ", "))
			}
		}
	}
	for _, g := range rings {
		if !slices.Contains(names, g.name) {
			continue
		}
		start := time.Now()
		fmt.Fprintf(r.out, "=== ring %s: %s\n", g.name, g.about)
		g.run(r)
		fmt.Fprintf(r.out, "=== ring %s took %s\n", g.name, time.Since(start).Round(time.Second))
	}
	return nil
}

// check runs a command that is one test by itself. Its output is shown when it
// fails.
func (r *run) check(name string, dir string, args ...string) bool {
	start := time.Now()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		fmt.Fprintf(r.out, "%sFAIL %s: %s: %v\n", out, name, strings.Join(args, " "), err)
		r.count.set("house", name, failed)
		return false
	}
	fmt.Fprintf(r.out, "ok   %s (%s)\n", name, time.Since(start).Round(100*time.Millisecond))
	r.count.set("house", name, passed)
	return true
}

// fail counts one failed test that has no command of its own.
func (r *run) fail(name, why string) {
	fmt.Fprintf(r.out, "FAIL %s: %s\n", name, why)
	r.count.set("house", name, failed)
}

// gotest runs go test with -json and counts its tests.
func (r *run) gotest(args ...string) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.fail("go test "+strings.Join(args, " "), err.Error())
		return
	}
	cmd.Stderr = r.out
	if err := cmd.Start(); err != nil {
		r.fail("go test "+strings.Join(args, " "), err.Error())
		return
	}
	before := r.count.failures()
	readErr := r.count.read(out, r.out)
	err = cmd.Wait()
	// A failure that no event told of: a build that broke, a killed process.
	if (err != nil || readErr != nil) && r.count.failures() == before {
		r.fail("go test "+strings.Join(args, " "), fmt.Sprint(err, " ", readErr))
	}
}

func (r *run) report() {
	for _, s := range r.count.skips() {
		fmt.Fprintln(r.out, "skipped:", s)
	}
	for _, f := range r.count.failed() {
		fmt.Fprintln(r.out, "failed:", f)
	}
}
