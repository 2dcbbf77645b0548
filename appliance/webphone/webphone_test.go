package webphone

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	h, err := Handler(Settings{Domain: "gw.test"})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// Every file the page asks for must be there, with a type the browser takes
// under nosniff, and the page must hold nothing its own policy forbids.
func TestPageIsWholeAndKeepsItsPolicy(t *testing.T) {
	srv := serve(t)
	res, page := get(t, srv.URL+"/")
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("GET /: %s, %s", res.Status, res.Header.Get("Content-Type"))
	}
	csp := res.Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	refs := regexp.MustCompile(`(?:src|href)="(\./[^"]+)"`).FindAllStringSubmatch(page, -1)
	types := map[string]string{".js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "est": "application/manifest+json"}
	if len(refs) < 4 {
		t.Fatalf("the page refers to %d files: %v", len(refs), refs)
	}
	for _, ref := range refs {
		res, body := get(t, srv.URL+"/"+ref[1])
		want := types[ref[1][len(ref[1])-3:]]
		if res.StatusCode != 200 || want == "" || !strings.HasPrefix(res.Header.Get("Content-Type"), want) || body == "" {
			t.Errorf("%s: %s, type %q, want %q, %d bytes", ref[1], res.Status, res.Header.Get("Content-Type"), want, len(body))
		}
	}
	for _, forbidden := range []string{`<script>`, `<style`, ` style="`, ` onclick=`, `//cdn`} {
		if strings.Contains(page, forbidden) {
			t.Errorf("the page holds %q, which its policy forbids", forbidden)
		}
	}
}

func TestSettingsTellTheDomain(t *testing.T) {
	srv := serve(t)
	res, body := get(t, srv.URL+"/phone.json")
	if res.StatusCode != 200 || body != `{"domain":"gw.test"}` || res.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%s %q %v", res.Status, body, res.Header)
	}
	if _, err := Handler(Settings{}); err == nil {
		t.Error("a handler without a domain was made")
	}
}

func TestOtherPathsAndMethodsAreRefused(t *testing.T) {
	srv := serve(t)
	for _, p := range []string{"/nothing", "/assets/", "/assets", "/../webphone.go", "/dist/index.html"} {
		if res, _ := get(t, srv.URL+p); res.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s", p, res.Status)
		}
	}
	res, err := http.Post(srv.URL+"/", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /: %s", res.Status)
	}
}
