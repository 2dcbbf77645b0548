package demo

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"log/slog"
)

// screen is what a demo prints, read while it is written.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func runDemo(t *testing.T) (text string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var s screen
	done := make(chan error, 1)
	go func() { done <- run(ctx, "127.0.0.1:0", "test", slog.New(slog.DiscardHandler), &s) }()
	eventually(t, "the demo says what to do", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the demo ended: %v", err)
		default:
		}
		return strings.Contains(s.String(), "Ctrl-C")
	})
	stop = func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(4 * wait):
			t.Fatal("the demo does not stop")
			return nil
		}
	}
	return s.String(), stop
}

func TestDemoSaysWhatToOpenAndDial(t *testing.T) {
	text, stop := runDemo(t)
	for _, want := range []string{
		`(?m)^  Sign in +alice +password ([a-z0-9]{4}-){2}[a-z0-9]{4}$`,
		`(?m)^  or +bob +password ([a-z0-9]{4}-){2}[a-z0-9]{4}$`,
		`(?m)^  Dial +echo `, `(?m)^  or +tone `, `(?m)^  or +announcement `, `SIP phones register at 127\.0\.0\.1:50\d\d`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	open := regexp.MustCompile(`http://localhost:\d+/`).FindString(text)
	c := http.Client{Timeout: wait, Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"readyz": "ready", "": "<html", "metrics": "sluice_registrations 3"} {
		res, err := c.Get(open + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("GET %s: %s, %v", open+path, res.Status, err)
		}
	}
	second, stopSecond := runDemo(t)
	if port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`); port.FindString(second) == port.FindString(text) {
		t.Errorf("two demos on one SIP port:\n%s", second)
	}
	if !strings.Contains(second, "(5060 is taken)") {
		t.Errorf("it is not said that 5060 is taken:\n%s", second)
	}
	if err := stopSecond(); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestDemoPasswordsAreNew(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p := password()
		if seen[p] || len(p) != 14 {
			t.Fatalf("password %q", p)
		}
		seen[p] = true
	}
}
