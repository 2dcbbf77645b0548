package e2e

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegw/sluice/internal/ring"
)

var printedUser = regexp.MustCompile(`(\w+)\s+password (\S+)`)

// What a new user does: start it without a word of configuration, open the page
// it names with the password it prints, and dial what it offers.
func TestDemoAsANewUser(t *testing.T) {
	ring.Needs(t, append([]ring.Need{ring.Root, ring.Tool("ip"), ring.Tool("nsenter")}, browserNeeds...)...)
	// A network namespace of its own has the default ports free.
	ns := fmt.Sprintf("slc%ddemo", os.Getpid())
	run(t, command("", "ip", "netns", "add", ns))
	t.Cleanup(func() { _ = command("", "ip", "netns", "del", ns).Run() })
	run(t, command("", "ip", "-n", ns, "link", "set", "lo", "up"))
	p := start(t, "sluice", command(ns, sluice(t), "run"))
	var name, password string
	eventually(t, 15*time.Second, "a user and a password are printed", func() error {
		m := printedUser.FindStringSubmatch(tail(p.log, 1<<16))
		if m == nil {
			return fmt.Errorf("nothing like it in:\n%s", tail(p.log, 2000))
		}
		name, password = m[1], m[2]
		conn, err := dialIn(ns, "tcp", "127.0.0.1:8080")
		if err == nil {
			conn.Close()
		}
		return err
	})

	b, err := launch(ns, toneBrowserA)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	w := openPhone(t, b, "http://localhost:8080/")
	w.signIn(name, password)

	w.dial("tone")
	w.connected()
	w.hears(440, 20*time.Second)
	w.click("Hang up")
	w.see("Call ended", 10*time.Second)

	w.dial("echo")
	w.connected()
	w.hears(toneBrowserA, 20*time.Second)

	p.signal(syscall.SIGINT)
	w.see("Call ended", 10*time.Second)
	if err := p.waitExit(t, 10*time.Second); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
}

// A taken port is told with the setting to change.
func TestTakenPortNamesItsSetting(t *testing.T) {
	g := newGateway(t, gatewayConfig{})
	config := t.TempDir() + "/sluice.yaml"
	text := fmt.Sprintf("domain: %s\nhttp:\n  listen: %q\nsip:\n  udp: \"127.0.0.1:0\"\n", domain, g.http)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "second", command("", sluice(t), "run", "--config", config))
	if err := p.waitExit(t, 10*time.Second); err == nil {
		t.Error("a second gateway took the same port")
	}
	if p.logs("http.listen") != nil {
		t.Errorf("the setting is not named:\n%s", tail(p.log, 2000))
	}
	if res, err := http.Get(g.url() + "healthz"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the first one suffered: %v", err)
	} else {
		res.Body.Close()
	}
}
