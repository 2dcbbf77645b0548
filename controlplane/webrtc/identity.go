package webrtc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/sluicegw/sluice/controlplane/sdp"
)

// identity is what a leg is known by for its whole life: ICE credentials (RFC
// 8839 5.4) and a DTLS certificate of its own, so that no leg can pass for
// another.
type identity struct {
	ufrag, pwd  string
	certificate tls.Certificate
	fingerprint sdp.Fingerprint
}

func newIdentity() (*identity, error) {
	// rand.Text has 26 characters of base32, 130 bits, all of them ice-chars.
	id := &identity{ufrag: rand.Text()[:12], pwd: rand.Text()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("webrtc: certificate key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return nil, fmt.Errorf("webrtc: certificate serial: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "WebRTC"},
		NotBefore:    now.Add(-24 * time.Hour), // clocks differ
		NotAfter:     now.Add(30 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("webrtc: certificate: %w", err)
	}
	sum := sha256.Sum256(der)
	id.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	id.fingerprint = sdp.Fingerprint{Algorithm: "sha-256", Value: sum[:]}
	return id, nil
}

var (
	errNoFingerprint = errors.New("the description has no fingerprint by sha-256, sha-384 or sha-512")
	errFingerprint   = errors.New("the certificate is not the one whose fingerprint was signalled")
)

// usable keeps the fingerprints that may vouch for a certificate (RFC 8122 5).
func usable(all []sdp.Fingerprint) []sdp.Fingerprint {
	var out []sdp.Fingerprint
	for _, f := range all {
		switch f.Algorithm {
		case "sha-256", "sha-384", "sha-512":
			out = append(out, f)
		}
	}
	return out
}

// verifyCertificate checks der against the signalled fingerprints: all of the
// strongest hash function among them, one of which must match (RFC 8122 5.1).
func verifyCertificate(der []byte, signalled []sdp.Fingerprint) error {
	list := usable(signalled)
	if len(list) == 0 {
		return errNoFingerprint
	}
	strongest := list[0].Algorithm
	for _, f := range list {
		strongest = max(strongest, f.Algorithm) // the names sort by strength
	}
	got := sdp.Fingerprint{Algorithm: strongest}
	switch strongest {
	case "sha-256":
		sum := sha256.Sum256(der)
		got.Value = sum[:]
	case "sha-384":
		sum := sha512.Sum384(der)
		got.Value = sum[:]
	case "sha-512":
		sum := sha512.Sum512(der)
		got.Value = sum[:]
	}
	for _, f := range list {
		if f.Equal(got) {
			return nil
		}
	}
	return errFingerprint
}
