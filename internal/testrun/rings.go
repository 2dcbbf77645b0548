package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// lint is run from source so that a machine needs nothing but Go.
const lint = "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0"

// rings in the order they run: the quick and telling ones first.
var rings = []struct {
	name, about string
	run         func(*run)
}{
	{"house", "format, vet, layers and lint, generated files", house},
	{"unit", "packages by themselves, with the race detector", unit},
	{"kernel", "BPF packet tables and network namespaces (root)", kernel},
	{"e2e", "a browser against SIP phones", e2e},
	{"fuzz", "each fuzz target for a short while", fuzz},
}

func ringNames() []string {
	var n []string
	for _, r := range rings {
		n = append(n, r.name)
	}
	return n
}

// Folders whose tests are rings of their own.
const (
	bpfFolder    = "bpf"
	kernelFolder = "dataplane/kernel"
	perfFolder   = "perf" // its laboratory is made of namespaces and the kernel engine
	e2eFolder    = "appliance/e2e"
	webphone     = "appliance/webphone"
)

func house(r *run) {
	if out, err := exec.Command("gofmt", "-l", "appliance", "bpf", "cmd", "controlplane", "dataplane", "internal", "perf").CombinedOutput(); err != nil || len(out) > 0 {
		r.fail("gofmt", fmt.Sprintf("run gofmt -w on %s", bytes.ReplaceAll(out, []byte("\n"), []byte(" "))))
	} else {
		r.count.set("house", "gofmt", passed)
	}
	r.check("vet", ".", "go", "vet", "./...")
	r.check("lint", ".", "go", "run", lint, "run", "--allow-parallel-runners", "./...")
	if exists(webphone, "package.json") {
		r.check("webphone types", webphone, "npm", "run", "-s", "check")
		r.generated("webphone assets", []string{webphone + "/dist"}, "npm", "--prefix", webphone, "run", "-s", "build")
	}
	if gen, err := filepath.Glob(bpfFolder + "/*.go"); err == nil && len(gen) > 0 {
		r.generated("BPF objects", []string{bpfFolder}, "go", "generate", "./"+bpfFolder+"/...")
	}
}

// generated makes files again and fails when they differ from the committed ones.
func (r *run) generated(name string, folders []string, args ...string) {
	before, err := contents(folders)
	if err != nil {
		r.fail(name, err.Error())
		return
	}
	if !r.check(name+" build", ".", args...) {
		return
	}
	after, err := contents(folders)
	if err != nil {
		r.fail(name, err.Error())
		return
	}
	var differ []string
	for f := range after {
		if before[f] != after[f] {
			differ = append(differ, f)
		}
	}
	for f := range before {
		if _, ok := after[f]; !ok {
			differ = append(differ, f)
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		r.fail(name, "not what the sources make: run make generate and commit "+strings.Join(differ, " "))
		return
	}
	r.count.set("house", name, passed)
}

func contents(folders []string) (map[string][sha256.Size]byte, error) {
	sums := map[string][sha256.Size]byte{}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			sums[path] = sha256.Sum256(b)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return sums, nil
}

func unit(r *run) {
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		r.fail("go list", err.Error())
		return
	}
	var pkgs []string
	for pkg := range strings.FieldsSeq(string(out)) {
		_, path, _ := strings.Cut(pkg, "/sluice/")
		if !slices.ContainsFunc([]string{bpfFolder, kernelFolder, perfFolder, e2eFolder}, func(f string) bool {
			return path == f || strings.HasPrefix(path, f+"/")
		}) {
			pkgs = append(pkgs, pkg)
		}
	}
	r.gotest(append([]string{"-race", "-timeout", "10m"}, pkgs...)...)
}

func kernel(r *run) {
	for _, f := range []string{bpfFolder, kernelFolder, perfFolder} {
		if hasGo(f) {
			r.gotest("-count=1", "-p", "1", "-timeout", "15m", "./"+f+"/...")
		}
	}
}

func e2e(r *run) {
	if hasGo(e2eFolder) {
		r.gotest("-count=1", "-p", "1", "-timeout", "20m", "./"+e2eFolder+"/...")
	}
}

var fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

func fuzz(r *run) {
	targets := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && path != ".") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range fuzzTarget.FindAllSubmatch(b, -1) {
			dir := filepath.Dir(path)
			targets[dir] = append(targets[dir], string(m[1]))
		}
		return err
	})
	if err != nil {
		r.fail("fuzz", err.Error())
		return
	}
	for _, dir := range slices.Sorted(maps.Keys(targets)) {
		for _, f := range targets[dir] {
			r.check("fuzz "+dir+" "+f, ".", "go", "test", "-run", "^$", "-fuzz", "^"+f+"$",
				"-fuzztime", r.fuzztime.String(), "./"+dir)
		}
	}
}

func exists(elem ...string) bool {
	_, err := os.Stat(filepath.Join(elem...))
	return err == nil
}

func hasGo(folder string) bool {
	found := false
	_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "node_modules" {
			return fs.SkipDir
		}
		found = found || err == nil && strings.HasSuffix(path, "_test.go")
		return nil
	})
	return found
}
