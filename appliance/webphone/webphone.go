// Package webphone is the gateway's own telephone for browsers: TypeScript and
// JsSIP, built by Vite into dist and embedded, so that the gateway needs no
// other file.
package webphone

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed dist
var dist embed.FS

// Assets returns the built web phone, index.html at its root.
func Assets() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil { // dist is a constant of the build
		panic(err)
	}
	return sub
}

// Settings is what a page is told by GET /phone.json before anyone signs in, so
// nothing in it is secret.
type Settings struct {
	// Domain is the SIP domain that users sign in to. It must not be empty.
	Domain string `json:"domain"`
}

// The page loads nothing from elsewhere and runs no inline script or style.
// connect-src 'self' covers the WebSocket at /ws (CSP Level 3, section 6.7.2.8).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self'; media-src 'self' blob:; manifest-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// Handler serves the web phone at / with its settings at /phone.json. Any other
// path is 404. It may be called by any number of requests at once.
func Handler(s Settings) (http.Handler, error) {
	if s.Domain == "" {
		return nil, fmt.Errorf("web phone: no SIP domain to sign in to: set domain in the configuration")
	}
	settings, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("web phone: %w", err)
	}
	files := make(map[string][]byte)
	err = fs.WalkDir(Assets(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[name], err = fs.ReadFile(Assets(), name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("web phone: %w", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the web phone is read with GET", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		if name == "" {
			name = "index.html"
		}
		body, ok := files[name]
		if name == "phone.json" {
			body, ok = settings, true
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", contentType(name))
		h.Set("Content-Security-Policy", policy)
		h.Set("Permissions-Policy", "microphone=(self), speaker-selection=(self), camera=(), geolocation=()")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if strings.HasPrefix(name, "assets/") { // their names carry a hash of their content
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-cache")
		}
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
	}), nil
}

// The system's MIME table may lack these, and a wrong type with nosniff stops the page.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json":
		return "application/json"
	case ".webmanifest":
		return "application/manifest+json"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}
