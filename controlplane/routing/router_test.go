package routing

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
)

// invite is as much of an INVITE as routing reads.
type invite struct {
	call.Invite
	party    call.Party
	from, to call.Address
	hops     int
}

func (i invite) Party() call.Party  { return i.party }
func (i invite) From() call.Address { return i.from }
func (i invite) To() call.Address   { return i.to }
func (i invite) MaxForwards() int   { return i.hops }

type bindings map[string][]location.Binding

func (b bindings) Lookup(_ context.Context, aor string) ([]location.Binding, error) {
	if aor == "broken@gw.test" {
		return nil, errors.New("store is away")
	}
	return b[aor], nil
}

var (
	browserAt = netip.MustParseAddrPort("192.0.2.10:40000")
	phoneAt   = netip.MustParseAddrPort("192.0.2.20:5060")
)

func router(t *testing.T) *Router {
	t.Helper()
	r, err := New(Config{
		Domain: "gw.test",
		Hosts:  []string{"192.0.2.1", "[2001:db8::1]"},
		Users:  []User{{Name: "web1"}, {Name: "1001", Display: "Desk", SDES: true}, {Name: "away"}, {Name: "broken"}},
		Trunks: []Trunk{
			{Name: "carrier", Host: "203.0.113.5", Network: "outside", Username: "acct", Password: "pw", CallerID: "+4930100"},
			{Name: "pbx", Host: "pbx.example", Port: 5070, Transport: "tcp", Domain: "pbx.local", SDES: true},
			{Name: "six", Host: "2001:db8::9", Transport: "tls"},
		},
		Routes: []Route{
			{Prefix: "0", Trunk: "carrier", Strip: 1, Add: "+49"},
			{Prefix: "00", Trunk: "six", Strip: 2, Add: "+"},
			{Domain: "pbx.example", Trunk: "pbx"},
			{Prefix: "+4930100", From: "carrier", User: "1001"},
			{Prefix: "7", From: "pbx", Trunk: "carrier"},
			{Prefix: "88", From: "carrier", Trunk: "carrier"},
		},
	}, bindings{
		"1001@gw.test": {
			{Contact: "sip:1001@192.0.2.20", Source: phoneAt, Network: "inside", Transport: "UDP", Flow: "f1", Path: []string{"<sip:edge;lr>"}},
			{Contact: "sip:x@h.invalid;transport=ws", Source: browserAt, WebRTC: true, Network: "public", Flow: "f2", Instance: "<urn:uuid:1>"},
		},
		"web1@gw.test": {{Contact: "sip:w@h.invalid", Source: browserAt, WebRTC: true, Flow: "f3"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func user(name string, to, host string) invite {
	return invite{party: call.Party{User: name, Source: browserAt}, from: call.Address{Display: "Shown", User: name, Host: "gw.test"},
		to: call.Address{User: to, Host: host}, hops: 70}
}

func trunk(name, from, to, host string) invite {
	return invite{party: call.Party{Trunk: name}, from: call.Address{User: from, Host: "elsewhere"}, to: call.Address{User: to, Host: host}, hops: 70}
}

func TestRouteTo(t *testing.T) {
	r := router(t)
	type want struct {
		uris     []string
		from, to call.Address
	}
	addr := func(display, user, host string) call.Address {
		return call.Address{Display: display, User: user, Host: host}
	}
	for name, tc := range map[string]struct {
		inv  invite
		want want
	}{
		"user bound over both forks": {user("web1", "1001", "gw.test"), want{
			[]string{"sip:1001@192.0.2.20", "sip:x@h.invalid;transport=ws"}, addr("Shown", "web1", "gw.test"), addr("Desk", "1001", "gw.test")}},
		"by an address of ours": {user("web1", "1001", "192.0.2.1"), want{
			[]string{"sip:1001@192.0.2.20", "sip:x@h.invalid;transport=ws"}, addr("Shown", "web1", "gw.test"), addr("Desk", "1001", "gw.test")}},
		"by our IPv6 address": {user("web1", "1001", "[2001:DB8:0::1]"), want{
			[]string{"sip:1001@192.0.2.20", "sip:x@h.invalid;transport=ws"}, addr("Shown", "web1", "gw.test"), addr("Desk", "1001", "gw.test")}},
		"own number rings the other devices": {user("1001", "1001", "gw.test"), want{
			[]string{"sip:1001@192.0.2.20"}, addr("Desk", "1001", "gw.test"), addr("Desk", "1001", "gw.test")}},
		"prefix to trunk, stripped, caller id": {user("web1", "030 123-45", "gw.test"), want{
			[]string{"sip:+493012345@203.0.113.5"}, addr("", "+4930100", "gw.test"), addr("", "+493012345", "203.0.113.5")}},
		"longest prefix": {user("web1", "0044123", "GW.test."), want{
			[]string{"sip:+44123@[2001:db8::9];transport=tls"}, addr("", "web1", "gw.test"), addr("", "+44123", "2001:db8::9")}},
		"domain to trunk": {user("web1", "bob smith", "pbx.example"), want{
			[]string{"sip:bob%20smith@pbx.example:5070;transport=tcp"}, addr("", "web1", "pbx.local"), addr("", "bob smith", "pbx.local")}},
		"trunk to user by name": {trunk("carrier", "+441", "web1", "192.0.2.1"), want{
			[]string{"sip:w@h.invalid"}, addr("", "+441", "gw.test"), addr("", "web1", "gw.test")}},
		"trunk to user by number": {trunk("carrier", "+441", "+4930100", "192.0.2.1"), want{
			[]string{"sip:1001@192.0.2.20", "sip:x@h.invalid;transport=ws"}, addr("", "+441", "gw.test"), addr("Desk", "1001", "gw.test")}},
		"trunk may not pass for a user": {trunk("carrier", "1001", "web1", "192.0.2.1"), want{
			[]string{"sip:w@h.invalid"}, addr("", "anonymous", "anonymous.invalid"), addr("", "web1", "gw.test")}},
		"trunk to trunk where a route says so": {trunk("pbx", "200", "7123", "gw.test"), want{
			[]string{"sip:7123@203.0.113.5"}, addr("", "200", "gw.test"), addr("", "7123", "203.0.113.5")}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := r.Route(t.Context(), tc.inv)
			if err != nil {
				t.Fatal(err)
			}
			got := want{from: d.From, to: d.To}
			for _, x := range d.Targets {
				got.uris = append(got.uris, x.URI)
				if x.MaxForwards != 69 {
					t.Errorf("Max-Forwards %d, want 69", x.MaxForwards)
				}
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTargetCarriesBinding(t *testing.T) {
	d, err := router(t).Route(t.Context(), user("web1", "1001", "gw.test"))
	if err != nil {
		t.Fatal(err)
	}
	want := []call.Target{
		{URI: "sip:1001@192.0.2.20", Route: []string{"<sip:edge;lr>"}, Flow: "f1", SDES: true, MaxForwards: 69,
			Party: call.Party{User: "1001", Network: "inside", Source: phoneAt}},
		{URI: "sip:x@h.invalid;transport=ws", Flow: "f2", MaxForwards: 69,
			Party: call.Party{User: "1001", Network: "public", Source: browserAt, WebRTC: true, Instance: "<urn:uuid:1>"}},
	}
	if diff := cmp.Diff(want, d.Targets, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	d, err = router(t).Route(t.Context(), user("web1", "01", "gw.test"))
	if err != nil {
		t.Fatal(err)
	}
	want = []call.Target{{URI: "sip:+491@203.0.113.5", Username: "acct", Password: "pw", MaxForwards: 69,
		Party: call.Party{Trunk: "carrier", Network: "outside", Source: netip.MustParseAddrPort("203.0.113.5:5060")}}}
	if diff := cmp.Diff(want, d.Targets, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	r := router(t)
	hops := func(i invite, n int) invite { i.hops = n; return i }
	as := func(i invite, from string) invite { i.from.User = from; return i }
	for name, tc := range map[string]struct {
		inv  invite
		code int
	}{
		"nobody known":                    {invite{to: call.Address{User: "1001", Host: "gw.test"}, hops: 70}, 403},
		"user not configured":             {user("ghost", "1001", "gw.test"), 403},
		"trunk not configured":            {trunk("ghost", "1", "1001", "gw.test"), 403},
		"spoofed From":                    {as(user("web1", "1001", "gw.test"), "1001"), 403},
		"empty From":                      {as(user("web1", "1001", "gw.test"), ""), 403},
		"unknown user":                    {user("web1", "nobody", "gw.test"), 404},
		"unknown domain":                  {user("web1", "1001", "elsewhere.test"), 404},
		"no user part":                    {user("web1", "", "gw.test"), 404},
		"registered nowhere":              {user("web1", "away", "gw.test"), 480},
		"own number, no other device":     {user("web1", "web1", "gw.test"), 480},
		"Max-Forwards 0":                  {hops(user("web1", "1001", "gw.test"), 0), 483},
		"Max-Forwards 1 to a user":        {hops(user("web1", "1001", "gw.test"), 1), 483},
		"Max-Forwards 1 to a trunk":       {hops(user("web1", "01", "gw.test"), 1), 483},
		"trunk may not use users' routes": {trunk("carrier", "1", "0123", "gw.test"), 404},
		"user may not use trunks' routes": {user("web1", "7123", "gw.test"), 404},
		"trunk may not relay":             {trunk("carrier", "1", "bob", "pbx.example"), 404},
		"back to where it came from":      {trunk("carrier", "1", "881", "gw.test"), 482},
		"nothing left of the number":      {user("web1", "00", "pbx.example"), 200},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Route(t.Context(), tc.inv)
			if tc.code == 200 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var no *call.Refusal
			if !errors.As(err, &no) || no.Code != tc.code {
				t.Fatalf("got %v, want %d", err, tc.code)
			}
		})
	}
	if _, err := r.Route(t.Context(), user("web1", "broken", "gw.test")); err == nil || errors.As(err, new(*call.Refusal)) {
		t.Errorf("a broken store gave %v", err)
	}
}

func TestStripEverything(t *testing.T) {
	r, err := New(Config{Domain: "d", Users: []User{{Name: "u"}}, Trunks: []Trunk{{Name: "t", Host: "h"}},
		Routes: []Route{{Prefix: "9", Trunk: "t", Strip: 5}}}, bindings{})
	if err != nil {
		t.Fatal(err)
	}
	var no *call.Refusal
	if _, err = r.Route(t.Context(), invite{party: call.Party{User: "u"}, from: call.Address{User: "u"}, to: call.Address{User: "91", Host: "d"}, hops: 9}); !errors.As(err, &no) || no.Code != 484 {
		t.Errorf("got %v, want 484", err)
	}
}

func TestConfigErrorsAllAtOnce(t *testing.T) {
	_, err := New(Config{
		Hosts: []string{"192.0.2.1"},
		Users: []User{{Name: "u"}, {Name: "u"}},
		Trunks: []Trunk{{Name: "t", Host: "h"}, {Name: "t", Host: "h"}, {Name: "bad", Transport: "sctp"},
			{Name: "loop", Host: "192.0.2.1"}},
		Routes: []Route{{}, {Trunk: "nope"}, {User: "nobody"}, {From: "ghost", User: "u"}, {Trunk: "t", Strip: -1}, {From: "t", Trunk: "t"}},
	}, bindings{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"domain must be set", `user "u" is configured twice`, `trunk "t" is configured twice`,
		`trunk "bad": transport`, `trunk "bad" needs a host`, `trunk "loop" leads back`,
		"route 1: give it a trunk or a user", `route 2: there is no trunk "nope"`, `route 3: there is no user "nobody"`,
		`route 4: there is no trunk "ghost"`, "route 5: strip", "route 6: calls from one trunk",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

func TestNormalise(t *testing.T) {
	for in, want := range map[string]string{
		"+49 (30) 123-45": "+493012345", "030.12": "03012", "*98#": "*98#", "+1;ext=5": "+1", "alice": "alice",
		"a-b.c": "a-b.c", "-": "-", "+": "+", "1+2": "1+2", "": "",
	} {
		if got := normalise(in); got != want {
			t.Errorf("normalise(%q) = %q, want %q", in, got, want)
		}
	}
}
