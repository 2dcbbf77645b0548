package webrtc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/logging"

	"github.com/sluicegw/sluice/dataplane/srtp"
)

// handshake makes the DTLS connection over the selected pair. The certificate
// is checked before Finished, so no key of another peer is ever derived.
func (a *association) handshake(r remote) (*dtls.Conn, error) {
	var rejected error
	verify := func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) == 0 {
			rejected = errors.New("the browser sent no certificate")
		} else {
			rejected = verifyCertificate(raw[0], r.fingerprints)
		}
		return rejected
	}
	// Connection-wide options; the far address is where the mux sends to.
	far := a.end.dtls.LocalAddr()
	var conn *dtls.Conn
	var err error
	if r.server {
		conn, err = dtls.ClientWithOptions(a.end.dtls, far, clientOptions(a, verify)...)
	} else {
		conn, err = dtls.ServerWithOptions(a.end.dtls, far, serverOptions(a, verify)...)
	}
	if err != nil {
		return nil, fmt.Errorf("DTLS as %s: %w", role(r), err)
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.wait.handshake)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		switch {
		case rejected != nil:
			err = rejected
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			err = fmt.Errorf("the browser did not complete it within %v", a.wait.handshake)
		}
		return nil, fmt.Errorf("DTLS as %s, signalled fingerprint %s: %w", role(r), shortFingerprint(r), err)
	}
	return conn, nil
}

func role(r remote) string {
	if r.server {
		return "client"
	}
	return "server"
}

// shortFingerprint is enough to tell which one was meant.
func shortFingerprint(r remote) string {
	list := usable(r.fingerprints)
	if len(list) == 0 {
		return "none"
	}
	s := list[0].String()
	return s[:min(len(s), 31)] + "..."
}

// options shared by both roles. The order of profiles is ours: as server we
// choose, and GCM is the cheapest the kernel programs know.
func options(a *association, verify func([][]byte, [][]*x509.Certificate) error) []dtls.Option {
	return []dtls.Option{
		dtls.WithCertificates(a.id.certificate),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		dtls.WithSRTPProtectionProfiles(
			dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80, dtls.SRTP_AEAD_AES_256_GCM,
		),
		dtls.WithInsecureSkipVerify(true), // self-signed by design; verify checks the fingerprint
		dtls.WithVerifyPeerCertificate(verify),
		dtls.WithMTU(1200),
		dtls.WithFlightInterval(400 * time.Millisecond), // a lost flight is heard as a late first word
		dtls.WithLoggerFactory(quiet{a.log}),
	}
}

func clientOptions(a *association, verify func([][]byte, [][]*x509.Certificate) error) []dtls.ClientOption {
	var out []dtls.ClientOption
	for _, o := range options(a, verify) {
		out = append(out, o)
	}
	return out
}

func serverOptions(a *association, verify func([][]byte, [][]*x509.Certificate) error) []dtls.ServerOption {
	var out []dtls.ServerOption
	for _, o := range options(a, verify) {
		out = append(out, o)
	}
	return append(out,
		dtls.WithClientAuth(dtls.RequireAnyClientCert),
		// ICE has validated the address; a cookie would only cost a round trip.
		dtls.WithInsecureSkipVerifyHello(true),
	)
}

// exportKeys derives the SRTP master keys (RFC 5764 4.2). server is our role.
func exportKeys(conn *dtls.Conn, server bool) (p srtp.Profile, rx, tx srtp.MasterKey, err error) {
	selected, ok := conn.SelectedSRTPProtectionProfile()
	if !ok {
		return 0, rx, tx, errors.New("the browser agreed to no SRTP profile; AEAD_AES_128_GCM, AES_CM_128_HMAC_SHA1_80 and AEAD_AES_256_GCM are offered")
	}
	p = srtp.Profile(selected)
	key, salt := 16, 14
	switch p {
	case srtp.ProfileAES128CMHMACSHA1_80:
	case srtp.ProfileAEADAES128GCM:
		salt = 12
	case srtp.ProfileAEADAES256GCM:
		key, salt = 32, 12
	default:
		return 0, rx, tx, fmt.Errorf("SRTP profile %#04x was not offered", uint16(p))
	}
	state, ok := conn.ConnectionState()
	if !ok {
		return 0, rx, tx, net.ErrClosed
	}
	b, err := state.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 2*(key+salt))
	if err != nil {
		return 0, rx, tx, err
	}
	client := srtp.MasterKey{Profile: p, Key: b[:key:key], Salt: b[2*key : 2*key+salt : 2*key+salt]}
	other := srtp.MasterKey{Profile: p, Key: b[key : 2*key : 2*key], Salt: b[2*key+salt:]}
	if server {
		return p, client, other, nil
	}
	return p, other, client, nil
}

func profileName(p srtp.Profile) string {
	switch p {
	case srtp.ProfileAES128CMHMACSHA1_80:
		return "AES_CM_128_HMAC_SHA1_80"
	case srtp.ProfileAEADAES128GCM:
		return "AEAD_AES_128_GCM"
	case srtp.ProfileAEADAES256GCM:
		return "AEAD_AES_256_GCM"
	}
	return ""
}

// quiet takes pion's logs. Whoever can send us a packet can make it warn, and
// its debug level names ICE passwords: only errors pass, at our debug level.
type quiet struct{ log *slog.Logger }

func (q quiet) NewLogger(scope string) logging.LeveledLogger {
	return scoped{q.log.With("pion", scope)}
}

type scoped struct{ log *slog.Logger }

func (scoped) Trace(string)          {}
func (scoped) Tracef(string, ...any) {}
func (scoped) Debug(string)          {}
func (scoped) Debugf(string, ...any) {}
func (scoped) Info(string)           {}
func (scoped) Infof(string, ...any)  {}
func (scoped) Warn(string)           {}
func (scoped) Warnf(string, ...any)  {}
func (s scoped) Error(msg string)    { s.log.Debug(msg) }
func (s scoped) Errorf(format string, args ...any) {
	s.log.Debug(fmt.Sprintf(format, args...))
}
