package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// equal compares configurations, secrets and addresses included.
var equal = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b Secret) bool { return a == b }),
}

func mustParse(t *testing.T, s string) *Config {
	t.Helper()
	c, err := Parse("test.yaml", []byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExampleIsTheDefault(t *testing.T) {
	if d := cmp.Diff(mustParse(t, ""), mustParse(t, Example), equal); d != "" {
		t.Errorf("example.yaml does not hold the defaults (-default +example):\n%s", d)
	}
}

// sample is a line that is a key behind its #; prose has one space there.
var sample = regexp.MustCompile(`(?m)^( *)#([a-z_]|  )`)

// uncommented is the example with its samples switched on.
func uncommented() string { return sample.ReplaceAllString(Example, "$1$2") }

func TestExampleShowsEveryKey(t *testing.T) {
	var c Config
	d := decode("example.yaml", []byte(uncommented()), &c)
	if len(d.problems) > 0 {
		t.Fatalf("the samples are wrong:\n%v", d.problems)
	}
	if _, err := Parse("example.yaml", []byte(uncommented())); err != nil {
		t.Errorf("the samples are refused:\n%v", err)
	}
	shown := map[string]bool{}
	for k := range d.at {
		shown[regexp.MustCompile(`\[\d+\]`).ReplaceAllString(k, "[]")] = true
	}
	for _, k := range keys("", reflect.TypeFor[Config]()) {
		if !shown[k] {
			t.Errorf("example.yaml does not show %s", k)
		}
	}
}

func keys(prefix string, t reflect.Type) []string {
	var l []string
	for f := range t.Fields() {
		k := join(prefix, f.Tag.Get("yaml"))
		if f.Tag.Get("yaml") == "" {
			return l
		}
		l = append(l, k)
		ft := f.Type
		if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct {
			ft, k = ft.Elem(), k+"[]"
		}
		if ft.Kind() == reflect.Struct {
			l = append(l, keys(k, ft)...)
		}
	}
	return l
}

// The configuration that the project promised to understand for good.
const promised = `domain: gw.test
http:
  listen: 127.0.0.1:8080
  origins: ["http://127.0.0.1:*"]   # default: same origin
sip:
  udp: 127.0.0.1:5060
  tcp: 127.0.0.1:5060
media:
  address: 127.0.0.1
users:
- {name: web1, password: w1secret}
`

func TestPromisedKeys(t *testing.T) {
	c := mustParse(t, promised)
	if c.Domain != "gw.test" || c.HTTP.Listen.Port() != 8080 || c.SIP.TCP.Port() != 5060 ||
		!slices.Equal(c.HTTP.Origins, []string{"http://127.0.0.1:*"}) ||
		len(c.Media.Address) != 1 || c.Media.Address[0].String() != "127.0.0.1" ||
		len(c.Users) != 1 || c.Users[0].Name != "web1" || c.Users[0].Password.Reveal() != "w1secret" {
		t.Errorf("read as %+v", c)
	}
}

func TestDefaultsThatFollowOtherKeys(t *testing.T) {
	c := mustParse(t, `
sip: {udp: "192.0.2.1:5070"}
networks:
  - name: inside
    sip: {udp: "[2001:db8::1]:5060", tcp: off}
trunks:
  - {name: a, addresses: [198.51.100.7]}
`)
	if got := c.SIP.TCP.String(); got != "192.0.2.1:5070" {
		t.Errorf("sip.tcp is %s, want where UDP is", got)
	}
	if got := fmt.Sprint(c.Media.Address); got != "[192.0.2.1]" {
		t.Errorf("media.address is %s, want the one SIP listens on", got)
	}
	n := c.Networks[0]
	if n.SIP.TCP.IsValid() {
		t.Error("sip.tcp: off listens")
	}
	if got := fmt.Sprint(n.Media.Address); got != "[2001:db8::1]" {
		t.Errorf("media.address of the network is %s", got)
	}
	if tr := c.Trunks[0]; tr.Proxy != "198.51.100.7" || tr.Transport != UDP || tr.Network != DefaultNetwork {
		t.Errorf("trunk is %+v", tr)
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	_, err := Parse("x.yaml", []byte(`domian: gw.test
http:
  listen: 127.0.0.1
  origins: ["ftp://x", 'http://*']
sip:
  udp: 127.0.0.1:5060
  tls: 127.0.0.1:5061
media:
  address: [127.0.0.1, 127.0.0.2]
  rtp_ports: 5-7
users:
  - {name: web1, password: w1secret}
  - {name: web1, password: w2secret}
  - {name: "a b"}
routes:
  - {prefix: "+49", trunk: none}
limits:
  calls: many
  ring_time: 3
log: [debug]
`))
	want := []string{
		"x.yaml:1:1: domian: no such key (did you mean domain?); known here: domain, http,",
		"x.yaml:3:11: http.listen: \"127.0.0.1\" is no listening address",
		"x.yaml:4:13: http.origins[0]: \"ftp://x\" is no origin",
		"x.yaml:4:24: http.origins[1]: \"http://*\" is no origin",
		"x.yaml:7:3: sip.tls: needs a certificate",
		"x.yaml:9:3: media.address: two addresses of one family",
		"x.yaml:10:14: media.rtp_ports: \"5-7\" is too small",
		"x.yaml:13:6: users[1].name: \"web1\" is also users[0]",
		"x.yaml:14:6: users[2].name: \"a b\": write letters",
		"x.yaml:14:5: users[2]: has no password",
		"x.yaml:16:21: routes[0].trunk: no trunk \"none\"",
		"x.yaml:18:10: limits.calls: \"many\" is no whole number",
		"x.yaml:19:14: limits.ring_time: \"3\" is no duration",
		"x.yaml:20:6: log: want keys here (level, format)",
	}
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) }) {
			t.Errorf("missing: %s", w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d problems, want %d:\n%s", len(got), len(want), err)
	}
	for i := 1; i < len(got); i++ {
		var a, b int
		_, _ = fmt.Sscanf(got[i-1], "x.yaml:%d", &a)
		_, _ = fmt.Sscanf(got[i], "x.yaml:%d", &b)
		if a > b {
			t.Errorf("not in the order of the file: %q before %q", got[i-1], got[i])
		}
	}
	if strings.Contains(err.Error(), "w1secret") || strings.Contains(err.Error(), "w2secret") {
		t.Error("a password in the problems")
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct{ name, yaml, want string }{
		{"not YAML", "domain: [", "not YAML"},
		{"a list", "- domain", "want keys here"},
		{"a scalar", "hello", "want keys here"},
		{"the same key twice", "domain: a\ndomain: b", "2:1"},
		{"two documents", "domain: a\n---\ndomain: b", "one"},
		{"anchors", "domain: &x a", "anchors"},
		{"a tag", "domain: !!str a", "tag"},
		{"a bad domain", "domain: 'a b'", "is no domain"},
		{"one port for two", "sip: {tcp: '127.0.0.1:8080'}", "http.listen: 127.0.0.1:8080 is also taken by sip.tcp"},
		{"wildcard media", "sip: {udp: ':5060'}", "media.address: missing"},
		{"unspecified media", "media: {address: 0.0.0.0}", "is no address to send media from"},
		{"advertised without address", "media: {address: 127.0.0.1, advertised: '2001:db8::1'}", "no address of its family"},
		{"browser port in the range", "media: {browser_port: 20001}", "lies within rtp_ports"},
		{"browser port", "media: {browser_port: 70000}", "is no port"},
		{"a network twice", "networks: [{name: default, media: {address: 127.0.0.2}}]", "a second network"},
		{"an unknown network", "http: {network: x}", "http.network: no network"},
		{"http off", "http: {listen: off}", "need an address"},
		{"certificate alone", "tls: {certificate: a}", "go together"},
		{"self-signed without files", "tls: {self_signed: true}", "name the files"},
		{"https without certificate", "http: {tls: true}", "http.tls: needs a certificate"},
		{"bool", "http: {tls: yes please}", "neither true nor false"},
		{"mode", "dataplane: {mode: fast}", "write one of auto, kernel, user"},
		{"admin", "admin: {socket: here}", "absolute path"},
		{"pin", "dataplane: {pin: here}", "absolute path"},
		{"level", "log: {level: loud}", "debug, info, warn, error"},
		{"user with both", "users: [{name: a, password: x, ha1: 0cc175b9c0f1b6a831c399e269772661}]", "write either"},
		{"ha1", "users: [{name: a, ha1: xyz}]", "32 lower-case"},
		{"ha1_sha256", "users: [{name: a, ha1_sha256: xyz}]", "64 lower-case"},
		{"ha1_sha256 that nobody asks for", "users: [{name: a, ha1_sha256: " + strings.Repeat("0", 64) + "}]", "users[0]: could not sign in: ha1_sha256 alone needs sha-256 in sip.digest"},
		{"ha1 that nobody asks for", "sip: {digest: sha-256}\nusers: [{name: a, ha1: " + strings.Repeat("0", 32) + "}]", "users[0]: could not sign in: ha1 alone needs md5 in sip.digest"},
		{"digest", "sip: {digest: [sha-512]}", "write one of md5, sha-256"},
		{"no digest", "sip: {digest: []}", "write md5, sha-256 or both"},
		{"a digest twice", "sip: {digest: [md5, md5]}", "sip.digest[1]: md5 a second time"},
		{"digest of a network", "networks: [{name: a, media: {address: 127.0.0.2}, sip: {digest: [md5]}}]", "no such key"},
		{"connections per address", "limits: {connections_per_address: 0}", "let nobody in"},
		{"empty password", "users: [{name: a, password: ''}]", "is empty"},
		{"trunk without addresses", "trunks: [{name: a}]", "trunks[0].addresses: missing"},
		{"trunk open to all", "trunks: [{name: a, addresses: [0.0.0.0/0]}]", "the whole world"},
		{"trunks that overlap", "trunks: [{name: a, addresses: [10.0.0.0/8]}, {name: b, addresses: [10.1.1.1]}]", "overlaps with trunk \"a\""},
		{"prefix with host bits", "trunks: [{name: a, addresses: [10.0.0.1/8]}]", "write 10.0.0.0/8"},
		{"trunk without listener", "trunks: [{name: a, addresses: [10.0.0.1], transport: tls}]", "does not listen on tls"},
		{"half credentials", "trunks: [{name: a, addresses: [10.0.0.1], username: x}]", "go together"},
		{"trunk proxy", "trunks: [{name: a, addresses: [10.0.0.1], proxy: 'a:b:c'}]", "is no host"},
		{"route to nowhere", "routes: [{prefix: '1'}]", "leads nowhere"},
		{"route to no user", "routes: [{prefix: '1', user: x}]", "no user \"x\""},
		{"route from no trunk", "users: [{name: a, password: x}]\nroutes: [{from: b, user: a}]", "routes[0].from: no trunk \"b\""},
		{"route between trunks", "trunks: [{name: a, addresses: [10.0.0.1]}]\nroutes: [{from: a, trunk: a}]", "on your account"},
		{"route prefix", "trunks: [{name: a, addresses: [10.0.0.1]}]\nroutes: [{trunk: a, prefix: 'x y'}]", "write digits"},
		{"route strip", "trunks: [{name: a, addresses: [10.0.0.1]}]\nroutes: [{trunk: a, prefix: '00', strip: 3}]", "0 to 2"},
		{"route add", "trunks: [{name: a, addresses: [10.0.0.1]}]\nroutes: [{trunk: a, prefix: '00', add: x}]", "routes[0].add"},
		{"calls per user", "limits: {calls_per_user: -1}", "0 for no limit"},
		{"display", "users: [{name: a, password: x, display: \"a\\r\\nb\"}]", "one line"},
		{"caller id", "trunks: [{name: a, addresses: [10.0.0.1], caller_id: 'x y'}]", "a number or a user"},
		{"no calls", "limits: {calls: 0}", "let nobody in"},
		{"ring time", "limits: {ring_time: 1s}", "5s to 1h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(tc.yaml))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
			if err != nil && strings.Count(err.Error(), "\n") > 1 {
				t.Errorf("one fault, many problems:\n%v", err)
			}
		})
	}
}

func TestScalarsKeepTheirSpelling(t *testing.T) {
	c := mustParse(t, "users:\n  - {name: 0100, password: 0123}\n  - {name: b, password: yes}\n  - name: c\n    password: 1e3\n")
	for i, want := range []string{"0123", "yes", "1e3"} {
		if got := c.Users[i].Password.Reveal(); got != want {
			t.Errorf("password %d read as %q, want %q", i, got, want)
		}
	}
	if c.Users[0].Name != "0100" {
		t.Errorf("name read as %q", c.Users[0].Name)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	c := mustParse(t, promised)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c.Users), fmt.Sprintf("%q", c.Users[0].Password)} {
		if strings.Contains(s, "w1secret") {
			t.Errorf("printed as %s", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Example)
	f.Add(uncommented())
	f.Add(promised)
	f.Add("a: &a [*a]")
	f.Add("? {a: b}\n: c")
	f.Add("<<: {domain: x}")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse("f.yaml", []byte(s))
		if (c == nil) == (err == nil) {
			t.Fatalf("configuration %v and error %v", c, err)
		}
		if err == nil && (c.Domain == "" || len(c.Media.Address) == 0) {
			t.Fatalf("accepted an incomplete configuration: %+v", c)
		}
	})
}
