package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/coder/websocket"
	"github.com/sluicegw/sluice/appliance/config"
	sipserver "github.com/sluicegw/sluice/controlplane/sip"
)

// One self-signed certificate, made at the start, serves https, wss and SIP
// over TLS.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert := filepath.Join(dir, "cert.pem")
	g, _ := start(t, "tls: {certificate: "+cert+", key: "+filepath.Join(dir, "key.pem")+", self_signed: true}\n"+
		"networks:\n  - name: secure\n    sip: {tls: \"127.0.0.1:0\"}\n    media: {address: 127.0.0.1, rtp_ports: 30000-30999}\n")
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)

	c, err := tls.Dial("tcp", g.SIP("secure", sipserver.TLS).String(), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	old := &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	if c, err := tls.Dial("tcp", g.SIP("secure", sipserver.TLS).String(), old); err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 was taken")
	}
}

func TestHTTPSAndWSS(t *testing.T) {
	dir := t.TempDir()
	cert := filepath.Join(dir, "cert.pem")
	cfg, err := config.Parse("test", []byte("http: {listen: 127.0.0.1:0, tls: true}\nsip: {udp: 127.0.0.1:0}\ndataplane: {mode: user}\nadmin: {socket: off}\n"+
		"tls: {certificate: "+cert+", key: "+filepath.Join(dir, "key.pem")+", self_signed: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	g := serve(t, cfg)
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Timeout: wait, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	res, err := client.Get("https://" + g.HTTP().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%s, %v", res.Status, res.Header)
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "wss://"+g.HTTP().String()+"/ws", &websocket.DialOptions{
		HTTPClient: client, Subprotocols: []string{"sip"}, HTTPHeader: http.Header{"Origin": {"https://" + g.HTTP().String()}},
	})
	if err != nil {
		t.Fatalf("%v, %v", err, res)
	}
	_ = ws.CloseNow()
	// A page from elsewhere is refused.
	_, res, err = websocket.Dial(ctx, "wss://"+g.HTTP().String()+"/ws", &websocket.DialOptions{
		HTTPClient: client, Subprotocols: []string{"sip"}, HTTPHeader: http.Header{"Origin": {"https://evil.example"}},
	})
	if err == nil || res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign origin: %v, %v", res, err)
	}
}
