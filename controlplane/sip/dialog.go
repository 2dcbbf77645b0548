package sip

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	gosip "github.com/emiago/sipgo/sip"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
)

// dialogs finds dialogs by their id, by the connection they use and by the user
// they are with.
type dialogs struct {
	mu     sync.Mutex
	byID   map[dialogID]*dialog
	byFlow map[string]map[*dialog]struct{}
	byUser map[string]map[*dialog]struct{}
}

type dialogID struct{ callID, local, remote string }

func newDialogs() *dialogs {
	return &dialogs{
		byID:   map[dialogID]*dialog{},
		byFlow: map[string]map[*dialog]struct{}{},
		byUser: map[string]map[*dialog]struct{}{},
	}
}

func link(m map[string]map[*dialog]struct{}, key string, d *dialog) {
	if key == "" {
		return
	}
	if m[key] == nil {
		m[key] = map[*dialog]struct{}{}
	}
	m[key][d] = struct{}{}
}

func unlink(m map[string]map[*dialog]struct{}, key string, d *dialog) {
	if set := m[key]; set != nil {
		delete(set, d)
		if len(set) == 0 {
			delete(m, key)
		}
	}
}

func (t *dialogs) add(d *dialog) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[d.id] = d
	link(t.byFlow, d.flow.token, d)
	link(t.byUser, d.party.User, d)
}

func (t *dialogs) remove(d *dialog) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[d.id] != d {
		return
	}
	delete(t.byID, d.id)
	unlink(t.byUser, d.party.User, d)
	unlink(t.byFlow, d.linked, d)
}

func (t *dialogs) find(id dialogID) *dialog {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

func (t *dialogs) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

func (t *dialogs) of(m map[string]map[*dialog]struct{}, key string) []*dialog {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*dialog
	for d := range m[key] {
		out = append(out, d)
	}
	return out
}

func (t *dialogs) close() {
	t.mu.Lock()
	all := make([]*dialog, 0, len(t.byID))
	for _, d := range t.byID {
		all = append(all, d)
	}
	t.mu.Unlock()
	for _, d := range all {
		d.finish()
	}
}

// dialogOf finds the dialog a request of the far side belongs to.
func (s *Server) dialogOf(req *gosip.Request) *dialog {
	return s.dialogs.find(dialogID{req.CallID().Value(), tagOf(req.To().Params), tagOf(req.From().Params)})
}

// dialog is RFC 3261 12. It implements call.Dialog.
type dialog struct {
	s     *Server
	id    dialogID
	party call.Party
	uac   bool   // we sent the INVITE that made it
	local string // From of our requests, with tag
	peer  string // To of our requests, with tag
	me    string // user part of our Contact

	// For a trunk that challenges.
	username, password string

	h       call.DialogHandler
	telling sync.Mutex // the handler's notifications come one at a time

	inviting chan struct{} // holds one: our INVITE or UPDATE with SDP under way

	mu        sync.Mutex
	done      bool
	byPeer    bool          // the far side sent BYE
	over      chan struct{} // closed with done
	flow      *flow
	linked    string // flow token in the index; under dialogs.mu
	down      bool   // OnFlow(false) was told
	target    string
	routes    []string // Route values, in the order to be visited
	localSeq  uint32
	remoteSeq uint32
	pending   *serverTx // the far side's INVITE or UPDATE with SDP without a final response
	waiting   *ackWait
	sending   bool // our INVITE has no final response yet
	delayed   func(sdp []byte) error
	sdp       []byte // our last SDP
	updates   bool   // the far side allows UPDATE
	session   session
}

var _ call.Dialog = (*dialog)(nil)

// ackWait is a 2xx that waits for its ACK.
type ackWait struct {
	seq uint32
	got chan *gosip.Request
}

func (s *Server) newDialog(f *flow, party call.Party, h call.DialogHandler) *dialog {
	return &dialog{
		s: s, party: party, h: h, flow: f, linked: f.token,
		inviting: make(chan struct{}, 1), over: make(chan struct{}),
	}
}

// CallID implements call.Dialog.
func (d *dialog) CallID() string { return d.id.callID }

// Party implements call.Dialog.
//
// Source is where the far side signals from now: it may have moved.
func (d *dialog) Party() call.Party {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.party
	p.Source = d.flow.remote
	return p
}

// Snapshot implements call.Dialog.
func (d *dialog) Snapshot() call.DialogSnapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return call.DialogSnapshot{
		CallID: d.id.callID, LocalTag: d.id.local, RemoteTag: d.id.remote,
		LocalURI: d.local, RemoteURI: d.peer, RemoteTarget: d.target, RouteSet: slices.Clone(d.routes),
		LocalCSeq: d.localSeq, RemoteCSeq: d.remoteSeq,
		Secure:         strings.HasPrefix(strings.ToLower(d.target), "sips:"),
		SessionExpires: d.session.interval, Refresher: d.session.ours,
	}
}

// finish takes the dialog out of the tables. It tells whether it was this call
// that ended it.
func (d *dialog) finish() bool {
	d.mu.Lock()
	if d.done {
		d.mu.Unlock()
		return false
	}
	d.done = true
	close(d.over)
	d.session.stop()
	pending := d.pending
	d.pending = nil
	d.mu.Unlock()
	d.s.dialogs.remove(d)
	if pending != nil {
		_ = pending.reply(487, "", nil)
	}
	return true
}

// tell calls one of the handler's notifications.
func (d *dialog) tell(f func()) {
	if d.h == nil {
		return
	}
	d.telling.Lock()
	defer d.telling.Unlock()
	defer func() { d.s.panicked(recover(), "call_id", d.id.callID) }()
	f()
}

func (d *dialog) endedByPeer() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byPeer
}

// moved gives the dialog another flow: after a reconnect, or a NAT that changed
// its mind.
func (d *dialog) moved(f *flow) {
	d.mu.Lock()
	if d.done || d.flow.token == f.token && d.flow.alive() && !d.down {
		d.mu.Unlock()
		return
	}
	was := d.down
	d.flow, d.down = f, false
	t := d.s.dialogs
	t.mu.Lock()
	unlink(t.byFlow, d.linked, d)
	d.linked = f.token
	link(t.byFlow, d.linked, d)
	t.mu.Unlock()
	d.mu.Unlock()
	if !f.alive() {
		d.lost(f)
		return
	}
	if was {
		d.s.log.Info("dialog is back", "call_id", d.id.callID, "party", d.party.Name(), "source", f.remote)
		d.tell(func() { d.h.OnFlow(true) })
	}
}

// lost tells the call that its browser's connection is gone. A phone may close
// its connection and open another one when it needs it.
func (d *dialog) lost(f *flow) {
	d.mu.Lock()
	if d.done || d.down || d.flow != f || !f.transport.web() {
		d.mu.Unlock()
		return
	}
	d.down = true
	d.mu.Unlock()
	d.s.log.Info("dialog lost its connection", "call_id", d.id.callID, "party", d.party.Name())
	d.tell(func() { d.h.OnFlow(false) })
}

// flowLost is called when a connection is gone.
func (s *Server) flowLost(f *flow) {
	for _, d := range s.dialogs.of(s.dialogs.byFlow, f.token) {
		d.lost(f)
	}
}

// flowBack gives the dialogs of a user and instance the flow he registered over.
func (s *Server) flowBack(f *flow, user string, put []location.Binding) {
	for _, d := range s.dialogs.of(s.dialogs.byUser, user) {
		d.mu.Lock()
		same := d.flow.transport.web() == f.transport.web()
		if same && d.flow.alive() && f.udp == nil {
			same = d.flow.token == f.token || d.party.Instance != ""
		}
		target := d.target
		d.mu.Unlock()
		if !same {
			continue
		}
		for _, b := range put {
			if d.party.Instance != "" && d.party.Instance == b.Instance ||
				d.party.Instance == "" && userOf(b.Contact) != "" && sameContact(b.Contact, target) {
				d.moved(f)
				break
			}
		}
	}
}

// sameContact compares what stays of a contact when its address changes.
func sameContact(a, b string) bool {
	x, err1 := parseURI(a)
	y, err2 := parseURI(b)
	return err1 == nil && err2 == nil && x.user == y.user && x.host == y.host && x.port == y.port
}

// admits tells whether a request of this dialog may come by f.
func (d *dialog) admits(f *flow) bool {
	d.mu.Lock()
	cur := d.flow
	d.mu.Unlock()
	if cur.token == f.token {
		return true
	}
	if d.party.Trunk != "" {
		return !f.transport.web() && (d.s.trunkOf(f) == d.party.Trunk || f.remote.Addr() == cur.remote.Addr())
	}
	if o := f.getOwner(); o.user != "" {
		return o.user == d.party.User
	}
	return !f.transport.web() && !cur.transport.web() && f.remote.Addr() == cur.remote.Addr()
}

// refresh takes a new remote target from a Contact (12.2.1.2).
func (d *dialog) refresh(m gosip.Message) {
	c := value(m, "Contact")
	if c == "" || c == "*" {
		return
	}
	if na, err := parseNameAddr(c); err == nil {
		if _, err := parseURI(na.uri); err == nil {
			d.mu.Lock()
			d.target = na.uri
			d.mu.Unlock()
		}
	}
}

// learn takes what the far side says it can do.
func (d *dialog) learn(m gosip.Message) {
	allow := tokens(m, "Allow")
	if len(allow) == 0 {
		return
	}
	d.mu.Lock()
	d.updates = contains(allow, "update")
	d.mu.Unlock()
}

// sourceOf is where a message came from.
func sourceOf(m gosip.Message) netip.AddrPort {
	a, _ := netip.ParseAddrPort(m.Source())
	return a
}

// session is the session timer of RFC 4028.
type session struct {
	interval time.Duration // 0: none
	ours     bool          // we refresh
	timer    *time.Timer
	gen      int
}

func (x *session) stop() {
	x.gen++
	if x.timer != nil {
		x.timer.Stop()
		x.timer = nil
	}
}
