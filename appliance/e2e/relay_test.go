package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	assets "github.com/sluicegw/sluice/appliance/webphone"
)

// relay serves the web phone and hands the SIP messages of two pages to each
// other, so that they can be tried without the gateway: it answers REGISTER and
// touches nothing else. Media runs from browser to browser.
type relay struct {
	mu    sync.Mutex
	users map[string]*websocket.Conn
}

var userOf = regexp.MustCompile(`(?i)\r\nFrom:[^\r\n]*sip:([^@]+)@`)

func newRelay(t testing.TB) string {
	t.Helper()
	pages, err := assets.Handler(assets.Settings{Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{users: map[string]*websocket.Conn{}}
	mux := http.NewServeMux()
	mux.Handle("/", pages)
	mux.HandleFunc("/ws", r.serve)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL + "/"
}

func (r *relay) serve(w http.ResponseWriter, req *http.Request) {
	conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{Subprotocols: []string{"sip"}})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 16)
	ctx := context.Background()
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return
		}
		text := string(b)
		if strings.TrimSpace(text) == "" {
			continue
		}
		if strings.HasPrefix(text, "REGISTER ") {
			if m := userOf.FindStringSubmatch(text); m != nil {
				r.mu.Lock()
				r.users[m[1]] = conn
				r.mu.Unlock()
			}
			_ = conn.Write(ctx, websocket.MessageText, []byte(registerOK(text)))
			continue
		}
		r.mu.Lock()
		for _, other := range r.users {
			if other != conn {
				_ = other.Write(ctx, websocket.MessageText, b)
			}
		}
		r.mu.Unlock()
	}
}

func registerOK(request string) string {
	out := []string{"SIP/2.0 200 OK"}
	for _, line := range strings.Split(request, "\r\n") {
		name, _, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "via", "from", "call-id", "cseq", "contact":
			out = append(out, line)
		case "to":
			out = append(out, line+";tag=relay")
		}
	}
	return strings.Join(append(out, "Content-Length: 0"), "\r\n") + "\r\n\r\n"
}

// The browsers, their tones and the listening in the page must work without the
// gateway, or their verdict on it would mean nothing.
func TestBrowsersWithoutGateway(t *testing.T) {
	a, b := chromiumA(t), chromiumB(t)
	url := newRelay(t)
	caller := openPhone(t, a, url)
	caller.signIn("web1", "any")
	callee := openPhone(t, b, url)
	callee.signIn("web2", "any")

	caller.dial("web2")
	callee.answer()
	caller.connected()
	callee.connected()
	caller.hears(toneBrowserB, 20*time.Second)
	callee.hears(toneBrowserA, 20*time.Second)
	caller.see("good", 10*time.Second)
	caller.click("Mute")
	callee.hearsSilence(5 * time.Second)
	caller.click("Unmute")
	callee.hears(toneBrowserA, 5*time.Second)
	callee.click("Hold")
	caller.see("The other side put you on hold", 10*time.Second)
	caller.hearsSilence(5 * time.Second)
	callee.click("Resume")
	caller.hears(toneBrowserB, 5*time.Second)
	caller.click("Hang up")
	callee.see("Call ended", 10*time.Second)
}
