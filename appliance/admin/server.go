package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Gateway is what the server tells of. Its methods are called from many
// goroutines.
type Gateway interface {
	// Calls lists the calls without the figures of their lines.
	Calls() []Call
	// Call is one call with everything; false when it is over.
	Call(ctx context.Context, id string) (Call, bool)
	// Hangup ends a call; false when there is none by that id.
	Hangup(id, why string) bool
	Flows() []Flow
	Registrations(ctx context.Context) ([]Registration, error)
	Dataplane() Dataplane
}

// DefaultSocket is where a gateway listens that is not told otherwise:
// /run/sluice/admin.sock for root, else below XDG_RUNTIME_DIR or the directory
// for temporary files.
func DefaultSocket() string {
	if os.Geteuid() == 0 {
		return "/run/sluice/admin.sock"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "sluice", "admin.sock")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("sluice-%d", os.Geteuid()), "admin.sock")
}

// ErrInUse is returned by Listen when a living gateway has the socket.
var ErrInUse = errors.New("another gateway listens there")

// Listen opens the socket: for its owner and group only, in a directory of the
// same kind. What a dead gateway left behind is removed.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	if err := ownDirectory(dir); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrInUse)
	} else if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		_ = os.Remove(path)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// ownDirectory refuses a directory where others could put a socket of theirs in
// our place.
func ownDirectory(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is no directory", dir)
	}
	if st.Uid != uint32(os.Geteuid()) && st.Uid != 0 || st.Mode&0o002 != 0 {
		return fmt.Errorf("%s can be written by others: choose another directory", dir)
	}
	return nil
}

// Server answers on the socket.
type Server struct {
	g    Gateway
	log  *slog.Logger
	http *http.Server
}

// NewServer makes a server for a gateway.
func NewServer(g Gateway, log *slog.Logger) *Server {
	s := &Server{g: g, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/calls", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, List[Call]{SchemaCalls, some(g.Calls())})
	})
	mux.HandleFunc("GET /v1/calls/{id}", s.call)
	mux.HandleFunc("POST /v1/calls/{id}/hangup", s.owner(s.hangup))
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, List[Flow]{SchemaFlows, some(g.Flows())})
	})
	mux.HandleFunc("GET /v1/registrations", s.registrations)
	mux.HandleFunc("GET /v1/dataplane", func(w http.ResponseWriter, _ *http.Request) { answer(w, g.Dataplane()) })
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peer(c))
		},
	}
	return s
}

// Serve answers until Close; it returns http.ErrServerClosed then.
func (s *Server) Serve(ln net.Listener) error { return s.http.Serve(ln) }

// Close ends the listener and every connection.
func (s *Server) Close() error { return s.http.Close() }

type peerKey struct{}

// peer is who is at the other end of a connection; nil when that is unknown.
func peer(c net.Conn) *unix.Ucred {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return nil
	}
	return cred
}

// owner lets only root and the gateway's own user change things.
func (s *Server) owner(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		cred, _ := r.Context().Value(peerKey{}).(*unix.Ucred)
		if cred == nil || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
			fail(w, http.StatusForbidden, Failure{Error: "only root and the gateway's own user may change anything"})
			return
		}
		s.log.Info("admin", "uid", cred.Uid, "pid", cred.Pid, "request", r.Method+" "+r.URL.Path)
		h(w, r)
	}
}

// find turns a short id, a Call-ID or a user into the one call that is meant.
func (s *Server) find(w http.ResponseWriter, want string) (id string, ok bool) {
	var among []string
	for _, c := range s.g.Calls() {
		if c.ID == want {
			return c.ID, true
		}
		if c.means(want) {
			among = append(among, c.ID)
		}
	}
	switch len(among) {
	case 0:
		fail(w, http.StatusNotFound, Failure{Error: fmt.Sprintf("no call %q: sluice calls list shows those there are", want)})
	case 1:
		return among[0], true
	default:
		fail(w, http.StatusConflict, Failure{Error: fmt.Sprintf("%q could mean %d calls", want, len(among)), Among: among})
	}
	return "", false
}

func (c *Call) means(want string) bool {
	if want == "" {
		return false
	}
	if strings.HasPrefix(c.ID, want) {
		return true
	}
	for _, l := range c.Legs {
		if l.SIPCallID == want || l.Party == want || l.ID == want || l.Source == want {
			return true
		}
	}
	return false
}

func (s *Server) call(w http.ResponseWriter, r *http.Request) {
	id, ok := s.find(w, r.PathValue("id"))
	if !ok {
		return
	}
	c, ok := s.g.Call(r.Context(), id)
	if !ok {
		fail(w, http.StatusNotFound, Failure{Error: fmt.Sprintf("call %s has just ended", id)})
		return
	}
	c.Schema = SchemaCall
	answer(w, c)
}

func (s *Server) hangup(w http.ResponseWriter, r *http.Request) {
	id, ok := s.find(w, r.PathValue("id"))
	if !ok {
		return
	}
	if !s.g.Hangup(id, "ended by an operator") {
		fail(w, http.StatusNotFound, Failure{Error: fmt.Sprintf("call %s has just ended", id)})
		return
	}
	answer(w, Call{Schema: SchemaCall, ID: id, Stage: "ended"})
}

func (s *Server) registrations(w http.ResponseWriter, r *http.Request) {
	l, err := s.g.Registrations(r.Context())
	if err != nil {
		fail(w, http.StatusInternalServerError, Failure{Error: err.Error()})
		return
	}
	answer(w, List[Registration]{SchemaRegistrations, some(l)})
}

// some keeps an empty list from becoming null.
func some[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, code int, f Failure) {
	f.Schema = SchemaError
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(f)
}
