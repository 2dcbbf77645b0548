package e2e

import (
	"net"
	"net/http"
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
	w.see("Enter your user name and your password.", 5*time.Second)
	w.trySignIn("web1", "x")
	w.see("The gateway does not answer.", 10*time.Second)
	w.see("Signed out", 5*time.Second)
}

// A microphone that is refused, or missing, stops the call before it is placed
// and says what to do.
func TestWordsWithoutMicrophone(t *testing.T) {
	ring.Needs(t, browserNeeds...)
	g := newGateway(t, gatewayConfig{})
	for _, tc := range []struct{ name, flag, words string }{
		{"refused", "--use-fake-device-for-media-stream", "Allow the microphone in the address bar"},
		{"missing", "--use-fake-device-for-media-stream=device-count=0", "No microphone was found."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			flags := []string{tc.flag}
			if tc.name == "missing" {
				flags = append(flags, "--use-fake-ui-for-media-stream")
			}
			b, err := launchWith("", append(flags, commonFlags...))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.close)
			w := openPhone(t, b, g.url())
			w.signIn("web1", passwords["web1"])
			w.dial("web2")
			w.see(tc.words, 10*time.Second)
			w.see("web1@"+domain, time.Second)
		})
	}
}
