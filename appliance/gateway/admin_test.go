package gateway_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/sluicegw/sluice/appliance/admin"
	"github.com/sluicegw/sluice/appliance/config"
	"github.com/sluicegw/sluice/appliance/demo"
	"github.com/sluicegw/sluice/appliance/gateway"
)

func TestAdminTellsTheTruthOfACall(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	g, _ := start(t, "admin: {socket: "+socket+"}\n")
	phone(t, g, "tone", demo.Tone)
	b := newBrowser(t, g.HTTP().String(), "gw.test", "a", "pw")
	b.register()
	if res := b.dial("tone"); res.StatusCode != 200 {
		t.Fatalf("INVITE: %d %s", res.StatusCode, res.Reason)
	}
	b.samples(20)
	c := admin.NewClient(socket)
	ctx := t.Context()

	list, err := c.Calls(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if list.Schema != admin.SchemaCalls || len(list.Items) != 1 {
		t.Fatalf("calls: %+v", list)
	}
	id := list.Items[0].ID
	for _, name := range []string{id, id[:4], "a", b.callID} {
		got, err := c.Call(ctx, name)
		if err != nil {
			t.Errorf("call %q: %v", name, err)
			continue
		}
		if got.ID != id || got.Direction != "browser-phone" || got.From != "a@gw.test" || got.To != "tone@gw.test" || len(got.Legs) != 2 {
			t.Errorf("call %q is %+v", name, got)
		}
		line := got.Legs[1].Lines[0]
		if line.Codec != "PCMU" || line.Path != "user" || line.Reason != "disabled" || line.Received.Packets < 20 || line.Received.Last == nil {
			t.Errorf("the phone's line is %+v", line)
		}
	}
	var missing *admin.NotFoundError
	if _, err := c.Call(ctx, "nonesuch"); !errors.As(err, &missing) {
		t.Errorf("an unknown call: %v", err)
	}

	flows, err := c.Flows(ctx)
	if err != nil || len(flows.Items) != 1 {
		t.Fatalf("flows: %+v, %v", flows, err)
	}
	if f := flows.Items[0]; f.InProfile != "none" || f.OutProfile != "AEAD_AES_128_GCM" || f.Path != "user" || f.Counters.Packets < 20 || f.SSRC == f.OutSSRC {
		t.Errorf("flow: %+v", f)
	}
	regs, err := c.Registrations(ctx)
	if err != nil || len(regs.Items) != 2 || regs.Items[0].User != "a" || regs.Items[0].Transport != "WS" || regs.Items[1].Transport != "UDP" {
		t.Errorf("registrations: %+v, %v", regs, err)
	}
	d, err := c.Dataplane(ctx)
	if err != nil || d.Engine != "user" || d.Reason != "disabled" || len(d.Paths) != 1 || d.Paths[0].Packets < 20 {
		t.Errorf("dataplane: %+v, %v", d, err)
	}
	for _, v := range []any{list, flows, regs, d} {
		if s, err := json.Marshal(v); err != nil || strings.Contains(string(s), `"pw"`) || strings.Contains(string(s), "null") {
			t.Errorf("%s, %v", s, err)
		}
	}

	if got, err := c.Hangup(ctx, id[:5]); err != nil || got != id {
		t.Errorf("hangup: %s, %v", got, err)
	}
	b.answerRequest(sip.BYE)
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if list, err := c.Calls(ctx); err == nil && len(list.Items) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the call that was hung up is still listed")
		}
	}
}

func TestAdminSocketIsPrivateAndSingle(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "sub", "admin.sock")
	_, stop := start(t, "admin: {socket: "+socket+"}\n")
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	cfg, err := config.Parse("test", []byte("http: {listen: 127.0.0.1:0}\nsip: {udp: 127.0.0.1:0}\ndataplane: {mode: user}\nadmin: {socket: "+socket+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.New(cfg, "test", nil); !errors.Is(err, admin.ErrInUse) || !strings.Contains(err.Error(), "change admin.socket") {
		t.Errorf("a second gateway on one socket: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	var gone *admin.UnreachableError
	if _, err := admin.NewClient(socket).Calls(t.Context()); !errors.As(err, &gone) {
		t.Errorf("asked after the end: %v", err)
	}

	// What a killed gateway leaves behind is no obstacle; what others can
	// write to is.
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = ln.Close()
	again, err := admin.Listen(socket)
	if err != nil {
		t.Fatalf("behind a dead gateway: %v", err)
	}
	_ = again.Close()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if ln, err := admin.Listen(filepath.Join(open, "admin.sock")); err == nil {
		_ = ln.Close()
		t.Error("a directory that all can write to was taken")
	}
}
