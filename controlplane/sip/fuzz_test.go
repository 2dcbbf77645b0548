package sip

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		`"A \"q\" b" <sip:a%20b:pw@[2001:db8::1]:5060;transport=tcp;lr?X=y>;tag=1;q=0.5;+sip.instance="<urn:uuid:1>"`,
		`sip:a@b.test;tag=1`, `A B <sips:x@192.0.2.1>`, `<tel:+1555;phone-context=x>`, `"unterminated <sip:a@b>`, `*`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseNameAddr(s)
		if err != nil {
			return
		}
		again, err := parseNameAddr(n.String())
		if err != nil || again.String() != n.String() || again.uri != n.uri || again.display != n.display {
			t.Fatalf("%q: %q became %q (%v)", s, n, again, err)
		}
		u, err := parseURI(n.uri)
		if err != nil {
			return
		}
		if strings.ContainsAny(u.user, "\r\n\x00") || u.host == "" {
			t.Fatalf("%q: %+v", s, u)
		}
		if v, err := parseURI("sip:" + escapeUser(u.user) + "@h"); u.user != "" && (err != nil || v.user != u.user) {
			t.Fatalf("%q: user %q became %q (%v)", s, u.user, v.user, err)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add(`Digest username="a\"b", realm="r", nonce="n", uri="sip:x", response="00", cnonce="c", nc=00000001, qop=auth, algorithm=SHA-256`)
	f.Add(`Digest username=a,username=b`)
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := parseCredentials(s)
		if ok && (c.username == "" || c.cnonce == "" || c.qop != "auth" || len(c.username) > 256) {
			t.Fatalf("%q: %+v", s, c)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\r\n\r\nOPTIONS sip:a SIP/2.0\r\nl: 3\r\n\r\nabcX"))
	f.Add([]byte("A: b\r\nContent-Length: 2147483647\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(b), 64)
		total := 0
		for {
			m, err := readFrame(r)
			if err != nil {
				return
			}
			if len(m) == 0 || len(m) > maxMessage {
				t.Fatalf("a message of %d bytes", len(m))
			}
			if total += len(m); total > len(b) {
				t.Fatal("more messages than bytes")
			}
		}
	})
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://gw.test", "https://*.test", "gw.test")
	f.Add("http://127.0.0.1:5173", "http://127.0.0.1:*", "x")
	f.Fuzz(func(t *testing.T, origin, pattern, host string) {
		r := &http.Request{Host: host, Header: http.Header{"Origin": {origin}}, URL: &url.URL{}}
		if !originAllowed(r, []string{pattern}) {
			return
		}
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || u.User != nil {
			t.Fatalf("%q is allowed", origin)
		}
		if !originAllowed(r, nil) && !strings.HasPrefix(strings.ToLower(pattern), strings.ToLower(u.Scheme)+"://") {
			t.Fatalf("%q is allowed by %q", origin, pattern)
		}
	})
}
