// Package location keeps where users can be reached: the bindings of the SIP
// registrar (RFC 3261 10, RFC 5626, RFC 3327), behind an interface, so that the
// store in memory can later be one that several nodes share.
package location

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Binding is one place where an address of record can be reached.
type Binding struct {
	AOR       string         // as made by AOR
	Contact   string         // the contact URI as registered, without its parameters
	Path      []string       // RFC 3327: the URIs a request has to visit first, in order
	Flow      string         // connection or UDP association the REGISTER came by (RFC 5626)
	Source    netip.AddrPort // signalling source as seen
	Network   string         // name of the network the REGISTER came by
	Transport string         // UDP, TCP, TLS, WS or WSS
	Instance  string         // +sip.instance, "" when the user agent gave none
	RegID     int            // reg-id, 0 when the user agent gave none
	UserAgent string
	Expires   time.Time
	CallID    string // of the REGISTER, with CSeq: orders refreshes (RFC 3261 10.3)
	CSeq      uint32
	WebRTC    bool // reached over WebSocket, media is WebRTC
}

// Key tells bindings of one AOR apart: by instance and reg-id when the user agent
// has an instance (RFC 5626 6; one that restarts replaces its old binding even
// without reg-id), else by the contact URI.
func (b *Binding) Key() string {
	if b.Instance != "" {
		return "i" + strconv.Itoa(b.RegID) + " " + b.Instance
	}
	return "c" + b.Contact
}

// Bound tells whether the binding can be reached by its flow only, and so ends
// with it: a browser, or a user agent that keeps its flow up by RFC 5626.
func (b *Binding) Bound() bool { return b.WebRTC || b.Instance != "" && b.RegID > 0 }

// Change is what happened to a binding.
type Change int

const (
	Added     Change = iota
	Refreshed        // also when flow or contact changed; Old holds what was there
	Removed          // unregistered or replaced
	Expired
)

func (c Change) String() string {
	return [...]string{"added", "refreshed", "removed", "expired"}[c]
}

// Event is one change of one binding.
type Event struct {
	Change  Change
	Binding Binding
	Old     *Binding // for Refreshed
}

var (
	// ErrTooMany refuses a new binding of an AOR, or of the store, that is full.
	ErrTooMany = errors.New("location: too many bindings")
	// ErrOutOfOrder refuses a REGISTER older than the one that made the binding
	// (same Call-ID and a CSeq that is not higher, RFC 3261 10.3 step 7).
	ErrOutOfOrder = errors.New("location: REGISTER out of order")
)

// Store holds bindings. Methods may be called from any goroutine. What they
// return is the caller's own.
type Store interface {
	// Update applies one REGISTER to an AOR, whole or not at all: put are added
	// or refreshed by Key, remove are dropped. It returns the bindings the AOR
	// then has, newest first. Errors: ErrTooMany, ErrOutOfOrder.
	Update(ctx context.Context, aor string, put, remove []Binding) ([]Binding, error)
	// Lookup returns the live bindings of an AOR, the latest refreshed first.
	Lookup(ctx context.Context, aor string) ([]Binding, error)
	// DropFlow removes every binding that is Bound to a flow that is gone.
	DropFlow(ctx context.Context, flow string) error
	// Watch calls f for each change, one at a time and in order, until stop is
	// called. f must not block and must not call the store.
	Watch(f func(Event)) (stop func())
	// Len is the number of live bindings of all users.
	Len() int
}

// AOR is the address of record of a user: the user part as it is, the domain in
// lower case, no scheme, no port (RFC 3261 10.3 step 5).
func AOR(user, domain string) string {
	return user + "@" + strings.ToLower(domain)
}
