package e2e

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	assets "github.com/sluicegw/sluice/appliance/webphone"
	"github.com/sluicegw/sluice/internal/ring"
)

// A web phone whose gateway serves pages but takes no WebSocket says so.
func TestWordsWhenSocketCannotOpen(t *testing.T) {
	chromium := chromiumA(t)
	h, err := assets.Handler(assets.Settings{Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	w := openPhone(t, chromium, "http://"+l.Addr().String()+"/")
	w.see(domain, 5*time.Second) // from phone.json
	w.click("Sign in")
	w.see("Enter your user name and your password.", 10*time.Second)
	w.trySignIn("web1", "x")
	w.see("The gateway does not answer.", 10*time.Second)
	w.see("Signed out", 10*time.Second)
}

// A microphone that is refused stops the call before it is placed and says what to do.
func TestWordsWhenMicrophoneIsRefused(t *testing.T) {
	ring.Needs(t, browserNeeds...)
	b, err := launchWith("", append([]string{"--use-fake-device-for-media-stream"}, commonFlags...)) // nobody grants it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	w := openPhone(t, b, newRelay(t))
	w.signIn("web1", "any")
	w.dial("web2")
	w.see("Allow the microphone in the address bar", 10*time.Second)
	w.see("web1@"+domain, time.Second)
}

// The other ways to be without a microphone need other machines, so the page is
// given the browser's error for them.
func TestWordsWithoutMicrophone(t *testing.T) {
	w := openPhone(t, chromiumA(t), newRelay(t))
	w.signIn("web1", "any")
	for name, words := range map[string]string{
		"NotFoundError":    "No microphone was found.",
		"NotReadableError": "Another program may be using it.",
	} {
		w.do("evaluate", map[string]any{
			"script":   "(name) => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name); }; }",
			"argument": name,
		}, nil)
		w.dial("web2")
		w.see(words, 5*time.Second)
	}
}

// A whole call without a mouse, and a second one from the list of recent calls.
func TestKeyboardOnly(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("answer", sippConfig{echo: true, calls: 2})
	w := openPhone(t, chromium, g.url())
	keys := func(names ...string) {
		t.Helper()
		for _, k := range names {
			w.do("press", map[string]any{"key": k}, nil)
		}
	}
	w.do("type", map[string]any{"value": "web1"}, nil) // the name has the focus
	keys("Tab")
	w.do("type", map[string]any{"value": passwords["web1"]}, nil)
	keys("Enter")
	w.see("web1@"+domain, 10*time.Second)
	keys("9", "1", "0", "0", "Enter") // so has the number
	w.connected()
	w.hears(toneBrowserA, 20*time.Second)
	keys("m")
	w.see("You are muted", 10*time.Second)
	keys("m")
	w.connected()
	keys("k", "5", "#")
	if digits := w.text("#digits"); digits != "5#" {
		t.Errorf("the keypad shows %q", digits)
	}
	keys("k")
	w.do("press", map[string]any{"key": "Enter"}, nil) // the focus is on Hang up
	w.see("Call ended", 10*time.Second)
	w.do("click", map[string]any{"selector": "#recent-list button"}, nil)
	w.connected()
	w.click("Hang up")
	carrier.passes(5 * time.Second)
}

// Signing out ends the registration and leaves nothing behind on the device.
func TestSignOut(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	w.dial("nobody")
	w.see("No such number or name.", 10*time.Second)
	w.click("Settings")
	w.click("Sign out")
	w.see("Signed out", 10*time.Second)
	refused(g, "web1", "480").passes(10 * time.Second)
	var kept map[string]string
	w.do("evaluate", map[string]any{"script": "() => ({ ...localStorage })"}, &kept)
	for k, v := range kept {
		if k != "sluice.audio" {
			t.Errorf("kept after signing out: %s = %s", k, v)
		}
		if strings.Contains(v, passwords["web1"]) {
			t.Errorf("the password is kept in %s", k)
		}
	}
}
