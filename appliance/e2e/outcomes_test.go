package e2e

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

func TestCancelByBrowser(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	carrier := g.trunk("ring", sippConfig{})
	w := web(t, g, chromium, "web1")

	w.dial("9100")
	w.see("Ringing", 10*time.Second)
	w.click("Hang up")
	w.see("Call cancelled", 10*time.Second)
	carrier.passes(5 * time.Second)
}

func TestCancelBySIPSide(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	carrier := g.fromTrunk("call-cancel", "web1", sippConfig{})

	w.see("is calling you", 10*time.Second)
	w.see("Missed call", 8*time.Second)
	carrier.passes(5 * time.Second)
}

// refused calls from the trunk and expects a final status.
func refused(g *gateway, target, status string) *sipp {
	g.t.Helper()
	format := "0"
	if status == "488" {
		format = "18" // G.729, which browsers do not have
	}
	return g.fromTrunk("call-refused", target, sippConfig{keys: map[string]string{"status": status, "format": format}})
}

func TestDeclineByBrowser(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	carrier := refused(g, "web1", "603")

	w.see("is calling you", 10*time.Second)
	w.click("Decline")
	carrier.passes(5 * time.Second)
	w.see("Call declined", 10*time.Second)
}

func TestSecondCallIsBusy(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	first := g.fromTrunk("call", "web1", sippConfig{echo: true})
	w.answer()
	w.connected()
	refused(g, "web1", "486").passes(10 * time.Second)
	w.hears(toneBrowserA, 20*time.Second)
	w.click("Hang up")
	first.passes(5 * time.Second)
}

// Every class of refusal reaches the person as what it is.
func TestRefusals(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := web(t, g, chromium, "web1")
	for _, tc := range []struct{ code, reason, words string }{
		{"486", "Busy Here", "Busy."},
		{"480", "Temporarily Unavailable", "Not available right now."},
		{"403", "Forbidden", "This call is not allowed."},
		{"404", "Not Found", "No such number or name."},
		{"488", "Not Acceptable Here", "no codec we have in common"},
		{"500", "Server Internal Error", "failed on the other side (500)"},
		{"503", "Service Unavailable", "overloaded"},
		{"603", "Decline", "Declined."},
	} {
		t.Run(tc.code, func(t *testing.T) {
			in := *g
			in.t = t
			carrier := in.trunk("reject", sippConfig{keys: map[string]string{"code": tc.code, "reason": tc.reason}})
			in2 := *w
			in2.t = t
			in2.dial("9100")
			in2.see(tc.words, 10*time.Second)
			carrier.passes(5 * time.Second)
		})
	}
	t.Run("unknown", func(t *testing.T) {
		in := *w
		in.t = t
		in.dial("nobody")
		in.see("No such number or name.", 10*time.Second)
	})
}

func TestUnknownCalleeOfTrunk(t *testing.T) {
	g := newGateway(t, gatewayConfig{})
	refused(g, "nobody", "404").passes(10 * time.Second)
}

func TestNoCommonCodec(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	web(t, g, chromium, "web1")
	refused(g, "web1", "488").passes(10 * time.Second)
}

func TestWrongPassword(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	w := openPhone(t, chromium, g.url())
	w.trySignIn("web1", "not-the-password")
	w.see("The user name or the password is not right.", 10*time.Second)

	c := g.phone("phone1", tonePhoneA)
	c.password = "not-the-password"
	phone := newBaresip(t, c)
	eventually(t, 10*time.Second, "the phone is refused", func() error { return phone.p.logs("401 Unauthorized") })
	// The right one still works from the same page.
	w.signIn("web1", passwords["web1"])
}

// upgrade asks for SIP over WebSocket as a page of an origin would.
func upgrade(t testing.TB, g *gateway, origin, protocol string) (net.Conn, *http.Response) {
	t.Helper()
	conn, err := dialIn(g.ns, "tcp", g.http.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	key := make([]byte, 16)
	_, _ = rand.Read(key)
	request := fmt.Sprintf("GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", g.http, base64.StdEncoding.EncodeToString(key))
	if protocol != "" {
		request += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	if origin != "" {
		request += "Origin: " + origin + "\r\n"
	}
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	return conn, res
}

func TestOriginOfWebSocket(t *testing.T) {
	g := newGateway(t, gatewayConfig{})
	for _, tc := range []struct {
		name, origin, protocol string
		ok                     bool
	}{
		{"same origin", "http://" + g.http.String(), "sip", true},
		{"another site", "https://evil.example", "sip", false},
		{"another port", "http://127.0.0.1:1", "sip", false},
		{"a name that starts alike", "http://" + g.http.String() + ".evil.example", "sip", false},
		{"no sip subprotocol", "http://" + g.http.String(), "", false},
	} {
		_, res := upgrade(t, g, tc.origin, tc.protocol)
		if (res.StatusCode == http.StatusSwitchingProtocols) != tc.ok {
			t.Errorf("%s: %s", tc.name, res.Status)
		}
	}
}

// Clients that connect and say nothing, at each stage, hold nobody up.
func TestSilentClientsStallNobody(t *testing.T) {
	chromium := chromiumA(t)
	g := newGateway(t, gatewayConfig{})
	for range 20 {
		for _, address := range []string{g.http.String(), g.sip.String()} {
			conn, err := dialIn(g.ns, "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		}
		if _, res := upgrade(t, g, "http://"+g.http.String(), "sip"); res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("upgrade: %s", res.Status)
		}
	}
	began := time.Now()
	w := web(t, g, chromium, "web1")
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("a sign-in took %v beside 60 silent connections", d)
	}
	phone := newPhone(t, g.phone("phone1", tonePhoneA))
	w.dial("phone1")
	phone.established()
	w.connected()
}
