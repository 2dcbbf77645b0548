package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program a test started. It is ended by its own process group
// when the test ends, and its output is shown when the test failed.
type process struct {
	cmd  *exec.Cmd
	log  string // path of its output
	done chan struct{}
	err  error // valid after done
}

// command makes a command that runs in the network namespace ns, "" = ours.
// nsenter, unlike ip netns exec, leaves /sys and with it the BPF file system alone.
func command(ns, name string, args ...string) *exec.Cmd {
	if ns == "" {
		return exec.Command(name, args...)
	}
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + ns, "--", name}, args...)...)
}

// start runs cmd with its output in a file of the test's directory.
func start(t testing.TB, label string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, log: filepath.Join(t.TempDir(), label+".log"), done: make(chan struct{})}
	f, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	cmd.Stderr = f
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	err = cmd.Start()
	f.Close()
	if err != nil {
		t.Fatalf("%s: %v", label, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.end(5 * time.Second)
		if t.Failed() {
			t.Logf("---- %s (%s)\n%s", label, cmd.ProcessState, tail(p.log, 12000))
		}
	})
	return p
}

// end asks the process to end, and makes it after grace.
func (p *process) end(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	// What is left of its group: children that outlived it, or itself.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	_ = syscall.Kill(p.cmd.Process.Pid, s)
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// logs tells whether the process has written a text.
func (p *process) logs(text string) error {
	if !strings.Contains(tail(p.log, 1<<20), text) {
		return fmt.Errorf("its log has no %q", text)
	}
	return nil
}

// waitExit waits for the process to end by itself and returns its error.
func (p *process) waitExit(t testing.TB, within time.Duration) error {
	t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		t.Fatalf("%s still runs after %v", p.cmd.Path, within)
		return nil
	}
}

func tail(path string, most int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = append([]byte("...\n"), b[len(b)-most:]...)
	}
	return string(b)
}

// eventually polls until ok returns nil, and fails the test with its last error.
func eventually(t testing.TB, within time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// run runs a command to its end and returns its output.
func run(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// once makes a thing for the whole run at its first use.
type once[T any] struct {
	sync.Once
	value T
	err   error
}

func (o *once[T]) get(make func() (T, error)) (T, error) {
	o.Do(func() { o.value, o.err = make() })
	return o.value, o.err
}

var gatewayBinary once[string]

// sluice builds the gateway once and returns the path of the program.
func sluice(t testing.TB) string {
	t.Helper()
	path, err := gatewayBinary.get(func() (string, error) {
		dir, err := os.MkdirTemp("", "sluice-e2e-")
		if err != nil {
			return "", err
		}
		atExit(func() { os.RemoveAll(dir) })
		path := filepath.Join(dir, "sluice")
		build := exec.Command("go", "build", "-o", path, "github.com/sluicegw/sluice/cmd/sluice")
		var out bytes.Buffer
		build.Stdout, build.Stderr = &out, &out
		if err := build.Run(); err != nil {
			return "", fmt.Errorf("build the gateway: %w\n%s", err, &out)
		}
		return path, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var exits struct {
	sync.Mutex
	do []func()
}

// atExit notes what ends when the package's tests have ended.
func atExit(f func()) {
	exits.Lock()
	defer exits.Unlock()
	exits.do = append(exits.do, f)
}

func TestMain(m *testing.M) {
	code := m.Run()
	exits.Lock()
	for i := len(exits.do) - 1; i >= 0; i-- {
		exits.do[i]()
	}
	exits.Unlock()
	os.Exit(code)
}

var errTimeout = errors.New("no answer in time")
