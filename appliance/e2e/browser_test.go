package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

// browserNeeds is what a test with a browser needs from the machine.
var browserNeeds = []ring.Need{
	ring.Tool("chromium"), ring.Tool("node"),
	ring.File("node_modules/playwright-core", "npm ci in appliance/e2e"),
}

// browser is one Chromium that speaks with one tone, behind driver.mjs.
type browser struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr string
	pid    int // of Chromium

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	gone    chan struct{}
	closing sync.Once
}

type reply struct {
	ID    int             `json:"id"`
	Value json.RawMessage `json:"value"`
	Error string          `json:"error"`
}

// commonFlags are those of every Chromium here.
var commonFlags = []string{
	"--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
	"--disable-background-networking", "--disable-component-update", "--disable-sync",
	"--autoplay-policy=no-user-gesture-required",
	"--allow-loopback-in-peer-connection",
}

// launch starts a Chromium whose microphone gives a tone, in the network namespace ns.
func launch(ns string, hz float64, extra ...string) (*browser, error) {
	dir, err := os.MkdirTemp("", "sluice-e2e-tone-")
	if err != nil {
		return nil, err
	}
	atExit(func() { os.RemoveAll(dir) })
	wav := filepath.Join(dir, "tone.wav")
	writeTone(failer{}, wav, 48000, hz, 4)
	flags := append([]string{
		"--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
		"--use-file-for-fake-audio-capture=" + wav,
	}, commonFlags...)
	return launchWith(ns, append(flags, extra...))
}

// launchWith starts a Chromium with flags. Whoever launches it closes it; at the
// end of the run it is closed anyway.
func launchWith(ns string, flags []string) (*browser, error) {
	f, err := os.CreateTemp("", "sluice-e2e-driver-*.log")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	atExit(func() { os.Remove(f.Name()) })
	b := &browser{
		cmd:     command(ns, "node", "driver.mjs"),
		stderr:  f.Name(),
		waiting: map[int]chan reply{},
		gone:    make(chan struct{}),
	}
	b.cmd.Stderr = f
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if b.stdin, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	atExit(b.close)
	go b.read(stdout)
	var started struct {
		PID int `json:"pid"`
	}
	if err := b.ask("launch", map[string]any{"executable": path, "args": flags}, &started); err != nil {
		b.close()
		return nil, fmt.Errorf("start Chromium: %w\n%s", err, tail(b.stderr, 4000))
	}
	b.pid = started.PID
	return b, nil
}

// failer lets writeTone be used where no test is at hand: the shared browsers
// outlive the test that starts them.
type failer struct{ testing.TB }

func (failer) Helper()           {}
func (failer) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (b *browser) read(r io.Reader) {
	defer close(b.gone)
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var answer reply
		if json.Unmarshal(line, &answer) != nil {
			continue
		}
		b.mu.Lock()
		ch := b.waiting[answer.ID]
		delete(b.waiting, answer.ID)
		b.mu.Unlock()
		if ch != nil {
			ch <- answer
		}
	}
}

// ask sends one request to the driver and decodes the value of its answer.
func (b *browser) ask(op string, arguments map[string]any, value any) error {
	request := map[string]any{"op": op}
	for k, v := range arguments {
		request[k] = v
	}
	ch := make(chan reply, 1)
	b.mu.Lock()
	b.next++
	request["id"] = b.next
	b.waiting[b.next] = ch
	line, err := json.Marshal(request)
	if err == nil {
		_, err = b.stdin.Write(append(line, '\n'))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("browser driver: %w", err)
	}
	select {
	case answer := <-ch:
		if answer.Error != "" {
			return fmt.Errorf("%s: %s", op, answer.Error)
		}
		if value == nil {
			return nil
		}
		return json.Unmarshal(answer.Value, value)
	case <-b.gone:
		return fmt.Errorf("%s: the browser driver has ended", op)
	case <-time.After(90 * time.Second):
		return fmt.Errorf("%s: %w", op, errTimeout)
	}
}

func (b *browser) close() { b.closing.Do(b.end) }

func (b *browser) end() {
	b.stdin.Close()
	done := make(chan struct{})
	go func() {
		<-b.gone // the pipe is read before Wait closes it
		_ = b.cmd.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		if b.pid != 0 {
			_ = syscall.Kill(b.pid, syscall.SIGKILL)
		}
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
}

// vanish kills Chromium without a farewell.
func (b *browser) vanish(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(b.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

var browserA, browserB once[*browser]

// shared returns a Chromium that lives as long as the test run.
func shared(t testing.TB, o *once[*browser], hz float64) *browser {
	t.Helper()
	ring.Needs(t, browserNeeds...)
	b, err := o.get(func() (*browser, error) { return launch("", hz) })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// webphone is one page with the gateway's web phone.
type webphone struct {
	t    testing.TB
	b    *browser
	id   int
	name string
}

// openPhone opens the web phone at url in a fresh profile. Voice processing is
// off, for it takes a steady tone for noise.
func openPhone(t testing.TB, b *browser, url string) *webphone {
	t.Helper()
	return openPage(t, b, url, map[string]any{"storage": map[string]string{"sluice.audio": `{"processing":false}`}})
}

func openPage(t testing.TB, b *browser, url string, options map[string]any) *webphone {
	t.Helper()
	var made struct {
		Page int `json:"page"`
	}
	if err := b.ask("page", options, &made); err != nil {
		t.Fatal(err)
	}
	w := &webphone{t: t, b: b, id: made.Page, name: "browser"}
	t.Cleanup(func() {
		w.complaints()
		if t.Failed() {
			w.dump()
		}
		_ = b.ask("closePage", map[string]any{"page": w.id}, nil)
	})
	w.do("goto", map[string]any{"url": url}, nil)
	return w
}

// complaints fails the test for what the page threw or its policy forbade. What
// the browser says of connections that a test broke is no fault of the page.
func (w *webphone) complaints() {
	var log struct{ Log []string }
	if w.b.ask("log", map[string]any{"page": w.id}, &log) != nil {
		return // the browser was killed by the test
	}
	for _, line := range log.Log {
		if strings.HasPrefix(line, "uncaught: ") || strings.Contains(line, "Content Security Policy") {
			w.t.Errorf("%s: the page complains: %s", w.name, line)
		}
	}
}

func (w *webphone) dump() {
	var log struct{ Log, Frames []string }
	if err := w.b.ask("log", map[string]any{"page": w.id}, &log); err != nil {
		w.t.Logf("---- %s: %v", w.name, err)
		return
	}
	var rows []map[string]any
	if w.b.ask("stats", map[string]any{"page": w.id}, &rows) == nil {
		for _, r := range rows {
			switch r["type"] {
			case "inbound-rtp", "outbound-rtp", "remote-inbound-rtp", "transport", "media-source":
				w.t.Logf("---- %s %v: %v", w.name, r["type"], r)
			}
		}
	}
	w.t.Logf("---- %s console\n%s\n---- %s SIP\n%s", w.name, strings.Join(log.Log, "\n"), w.name, strings.Join(log.Frames, "\n"))
	if dir := os.Getenv("SLUICE_E2E_SHOTS"); dir != "" {
		path := filepath.Join(dir, strings.ReplaceAll(w.t.Name(), "/", "_")+"-"+w.name+".png")
		_ = w.b.ask("screenshot", map[string]any{"page": w.id, "path": path}, nil)
	}
}

func (w *webphone) do(op string, arguments map[string]any, value any) {
	w.t.Helper()
	all := map[string]any{"page": w.id}
	for k, v := range arguments {
		all[k] = v
	}
	if err := w.b.ask(op, all, value); err != nil {
		w.t.Fatalf("%s: %v", w.name, err)
	}
}

func (w *webphone) click(name string) {
	w.t.Helper()
	w.do("click", map[string]any{"name": name}, nil)
}

// text is what an element shows.
func (w *webphone) text(selector string) (text string) {
	w.t.Helper()
	w.do("text", map[string]any{"selector": selector}, &text)
	return text
}

// see waits until the page shows the words.
func (w *webphone) see(words string, within time.Duration) {
	w.t.Helper()
	w.do("see", map[string]any{"text": words, "timeout": within.Milliseconds()}, nil)
}

// signIn signs in and waits until the phone is registered.
func (w *webphone) signIn(user, password string) {
	w.t.Helper()
	w.name = user
	w.trySignIn(user, password)
	w.see(user+"@", 30*time.Second)
}

func (w *webphone) trySignIn(user, password string) {
	w.t.Helper()
	w.do("fill", map[string]any{"label": "User name", "value": user}, nil)
	w.do("fill", map[string]any{"label": "Password", "value": password}, nil)
	w.click("Sign in")
}

func (w *webphone) dial(target string) {
	w.t.Helper()
	w.do("fill", map[string]any{"label": "Number or name to call", "value": target}, nil)
	w.click("Call")
}

// answer waits for an incoming call and takes it.
func (w *webphone) answer() {
	w.t.Helper()
	w.see("is calling you", 20*time.Second)
	w.click("Answer")
}

func (w *webphone) connected() {
	w.t.Helper()
	w.see("Connected", 20*time.Second)
}

// moment is a time on the page's clock, which is the machine's.
func moment() int64 { return time.Now().UnixMilli() }

type sound struct {
	at               time.Time
	hz, share, level float64
}

// heard returns what the page's call has sounded like since a moment.
func (w *webphone) heard(since int64) []sound {
	w.t.Helper()
	var rows [][4]float64
	w.do("heard", map[string]any{"since": since}, &rows)
	out := make([]sound, len(rows))
	for i, r := range rows {
		out[i] = sound{time.UnixMilli(int64(r[0])), r[1], r[2], r[3]}
	}
	return out
}

func (s sound) is(hz float64) bool {
	return s.level > 0.01 && math.Abs(s.hz-hz) < 15 && s.share > 0.7
}

// hears waits for a second of a tone that is new from now on.
func (w *webphone) hears(hz float64, within time.Duration) {
	w.t.Helper()
	since := moment()
	var last string
	eventually(w.t, within, fmt.Sprintf("%s hears %v Hz", w.name, hz), func() error {
		run := 0
		for _, s := range w.heard(since) {
			last = fmt.Sprintf("%.0f Hz, share %.2f, level %.3f", s.hz, s.share, s.level)
			if s.is(hz) {
				run++
			} else {
				run = 0
			}
		}
		if run < 10 {
			return fmt.Errorf("%d tenths of a second so far, last %s", run, last)
		}
		return nil
	})
}

// hearsSilence waits for a second in which nothing is heard.
func (w *webphone) hearsSilence(within time.Duration) {
	w.t.Helper()
	since := moment()
	eventually(w.t, within, w.name+" hears silence", func() error {
		quiet := 0
		for _, s := range w.heard(since) {
			if s.level < 0.003 {
				quiet++
			} else {
				quiet = 0
			}
		}
		if quiet < 10 {
			return fmt.Errorf("%d quiet tenths of a second", quiet)
		}
		return nil
	})
}

// stat returns one field of the first statistics row of a type.
func (w *webphone) stat(kind, field string) any {
	w.t.Helper()
	var rows []map[string]any
	w.do("stats", nil, &rows)
	for _, r := range rows {
		if r["type"] == kind {
			return r[field]
		}
	}
	return nil
}
