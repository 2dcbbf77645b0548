package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicegw/sluice/appliance/config"
)

// serverTLS loads the certificate, or makes one where the configuration asks for
// it. It is nil when no certificate is configured.
func serverTLS(files config.TLSFiles) (*tls.Config, error) {
	if files.Certificate == "" {
		return nil, nil
	}
	if files.SelfSigned {
		if err := makeCertificate(files); err != nil {
			return nil, fmt.Errorf("cannot make the self-signed certificate: %w: change tls.certificate and tls.key", err)
		}
	}
	cert, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot load the certificate: %w: change tls.certificate and tls.key, or set tls.self_signed: true for development", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// makeCertificate writes a key and a certificate for this host unless one of
// them exists. The key is readable by its owner only from the start.
func makeCertificate(files config.TLSFiles) error {
	for _, f := range []string{files.Certificate, files.Key} {
		if _, err := os.Stat(f); err == nil {
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "sluice self-signed"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, BasicConstraintsValid: true,
	}
	if name, err := os.Hostname(); err == nil {
		template.DNSNames = append(template.DNSNames, name)
	}
	if interfaces, err := net.InterfaceAddrs(); err == nil {
		for _, a := range interfaces {
			if ip, ok := a.(*net.IPNet); ok {
				template.IPAddresses = append(template.IPAddresses, ip.IP)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(files.Key, "PRIVATE KEY", pkcs8, 0o600); err != nil {
		return err
	}
	return writePEM(files.Certificate, "CERTIFICATE", der, 0o644)
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
}
