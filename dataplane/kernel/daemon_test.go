package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// A daemon is this test program run a second time: a gateway process that can
// be stopped and killed. It obeys lines on its standard input.
const daemonDir = "SLC_TEST_DAEMON_PINS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonDir); dir != "" {
		if err := serve(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve answers each line by one: "ok ..." or it ends with an error.
func serve(dir string, in io.Reader, out io.Writer) error {
	e, err := New(Config{PinDir: dir, Networks: networks(), Interfaces: []Interface{{outside, AttachNative}, {inside, AttachNative}}, Streams: 1024})
	if err != nil {
		return err
	}
	c := callFlows(false, srtp.ProfileAEADAES128GCM, srtp.ProfileNone)
	var plane planeDaemon
	fmt.Fprintln(out, "ok", e.Report().Orphans)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		answer := ""
		switch words[0] {
		case "install":
			var cut uint64
			if cut, err = strconv.ParseUint(words[1], 10, 64); err == nil {
				err = c.tryInstall(e, cut)
			}
		case "drop":
			err = DropCapabilities()
			if have, capErr := effectiveCapabilities(); err == nil && (capErr != nil || have != 0) {
				err = fmt.Errorf("capabilities left: %x, %v", have, capErr)
			}
		case "update":
			err = errors.Join(e.Update(&c.down), e.Update(&c.up))
		case "remove":
			s, removeErr := e.Remove(c.down.ID)
			_, upErr := e.Remove(c.up.ID)
			answer, err = fmt.Sprint(s.Packets), errors.Join(removeErr, upErr)
		case "release":
			s, releaseErr := e.Release(c.down.ID)
			_, upErr := e.Release(c.up.ID)
			answer, err = fmt.Sprint(s.Window.Highest()), errors.Join(releaseErr, upErr)
		case "wiped":
			err = errors.Join(e.bury(e.lastGrave()), wiped(e))
		case "inject":
			packet := udpIPv4(c.phoneAt, c.inAt, rtpPacket(500, c.down.InSSRC, 160))
			made, injectErr := e.Inject(inside, packet)
			answer, err = fmt.Sprint(len(made.Payload)), injectErr
		case "call":
			var generation uint64
			if generation, err = strconv.ParseUint(words[1], 10, 64); err == nil {
				answer, err = plane.call(e, generation)
			}
		case "kernel":
			err = plane.hand(false)
		case "fragments":
			counters, readErr := e.Counters()
			answer, err = fmt.Sprint(counters.Verdicts["xdp"][bpf.ControlSlcVerdictSLC_UP_FRAGMENT]), readErr
		case "hold":
			plane.hold(true)
		case "resume":
			plane.hold(false)
		case "user":
			err = plane.hand(true)
		case "close":
			return e.Close()
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "ok", answer)
	}
	return lines.Err()
}

// daemon is the other end of serve.
type daemon struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	waited bool
}

// startDaemon runs program, this test program when "", in the gateway.
func (l *lab) startDaemon(t testing.TB, program string) (*daemon, string) {
	t.Helper()
	if program == "" {
		program = os.Args[0]
	}
	d := &daemon{cmd: exec.Command(program)}
	d.cmd.Env = append(os.Environ(), daemonDir+"="+l.pins)
	d.cmd.Stderr = os.Stderr
	var err error
	d.in, err = d.cmd.StdinPipe()
	must(t, err)
	out, err := d.cmd.StdoutPipe()
	must(t, err)
	d.out = bufio.NewScanner(out)
	must(t, l.gateway.do(d.cmd.Start)) // the child inherits the thread's namespace
	t.Cleanup(d.kill)
	return d, d.answer(t)
}

func (d *daemon) ask(t testing.TB, line string) string {
	t.Helper()
	_, err := fmt.Fprintln(d.in, line)
	must(t, err)
	return d.answer(t)
}

func (d *daemon) answer(t testing.TB) string {
	t.Helper()
	if !d.out.Scan() {
		t.Fatal("the daemon has ended")
	}
	words, ok := strings.CutPrefix(d.out.Text(), "ok")
	if !ok {
		t.Fatalf("daemon: %s", d.out.Text())
	}
	return strings.TrimSpace(words)
}

func (d *daemon) signal(t testing.TB, s unix.Signal) {
	t.Helper()
	must(t, d.cmd.Process.Signal(s))
}

// kill ends the daemon as kill -9 does.
func (d *daemon) kill() {
	if d.waited {
		return
	}
	d.waited = true
	_ = d.cmd.Process.Kill() // it may have ended
	_ = d.cmd.Wait()         // says that it was killed
}

// pureGo builds this test program without cgo, which cannot drop capabilities
// of all its threads.
func pureGo(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kernel.test")
	cmd := exec.Command("go", "test", "-c", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the daemon: %v\n%s", err, out)
	}
	return path
}
