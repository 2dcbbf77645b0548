// Package admin is the gateway's administration: JSON over HTTP on a unix socket,
// its client, and the types of both. The JSON is promised: fields are added, never
// renamed or removed, within one version of a schema. Octets are bare numbers,
// times RFC 3339, durations seconds.
package admin

import "time"

// Schemas of the documents.
const (
	SchemaCalls         = "sluice.calls/v1"
	SchemaCall          = "sluice.call/v1"
	SchemaFlows         = "sluice.flows/v1"
	SchemaRegistrations = "sluice.registrations/v1"
	SchemaDataplane     = "sluice.dataplane/v1"
	SchemaError         = "sluice.error/v1"
)

// List is a document that holds several of a kind.
type List[T any] struct {
	Schema string `json:"schema"`
	Items  []T    `json:"items"`
}

// Call is one call.
type Call struct {
	Schema    string     `json:"schema,omitempty"`
	ID        string     `json:"id"`
	Stage     string     `json:"stage"`
	Direction string     `json:"direction"` // "browser-phone", "trunk-browser", ...
	From      string     `json:"from"`
	To        string     `json:"to"`
	Started   time.Time  `json:"started"`
	Answered  *time.Time `json:"answered,omitempty"`
	Seconds   float64    `json:"seconds"` // since the answer
	HeldBy    []string   `json:"held_by,omitempty"`
	Legs      []Leg      `json:"legs"`
}

// Leg is one side of a call.
type Leg struct {
	ID        string `json:"id"`
	Party     string `json:"party"`
	Kind      string `json:"kind"` // browser, phone or trunk
	Network   string `json:"network"`
	Source    string `json:"source,omitempty"` // where its signalling comes from
	SIPCallID string `json:"sip_call_id"`
	State     string `json:"state"`
	Code      int    `json:"code,omitempty"`
	Media     bool   `json:"media"` // keys are installed
	FlowDown  bool   `json:"flow_down,omitempty"`
	Lines     []Line `json:"lines"`
}

// Line is one media line of a leg. Its figures are in a single call only.
type Line struct {
	Kind         string    `json:"kind"`
	Codec        string    `json:"codec"`
	Direction    string    `json:"direction"` // as the far end says it
	Path         string    `json:"path,omitempty"`
	Reason       string    `json:"reason,omitempty"` // why not the kernel
	Received     *Counters `json:"received,omitempty"`
	Sent         *Counters `json:"sent,omitempty"`
	RemoteLost   int64     `json:"remote_lost,omitempty"`
	RemoteJitter float64   `json:"remote_jitter_seconds,omitempty"`
	RoundTrip    float64   `json:"round_trip_seconds,omitempty"`
	DTMF         string    `json:"dtmf,omitempty"`
}

// Counters of one direction.
type Counters struct {
	Packets uint64     `json:"packets"`
	Octets  uint64     `json:"octets"`
	Dropped uint64     `json:"dropped"`
	Lost    int64      `json:"lost"`
	Jitter  float64    `json:"jitter_seconds"`
	Last    *time.Time `json:"last_packet,omitempty"`
}

// Flow is one media stream with its output. Keys are never shown.
type Flow struct {
	ID         uint64   `json:"id"`
	Path       string   `json:"path"`
	Reason     string   `json:"reason,omitempty"`
	InNetwork  string   `json:"in_network"`
	From       string   `json:"from"` // the far end's address
	At         string   `json:"at"`   // ours
	SSRC       uint32   `json:"ssrc"`
	InProfile  string   `json:"in_profile"`
	OutNetwork string   `json:"out_network"`
	To         string   `json:"to"`
	OutSSRC    uint32   `json:"out_ssrc"`
	OutProfile string   `json:"out_profile"`
	Counters   Counters `json:"counters"`
}

// Registration is one binding of a user.
type Registration struct {
	User      string    `json:"user"`
	Contact   string    `json:"contact"`
	Transport string    `json:"transport"`
	Network   string    `json:"network"`
	Source    string    `json:"source"`
	UserAgent string    `json:"user_agent"`
	Expires   time.Time `json:"expires"`
}

// Dataplane says how media is carried and what was carried.
type Dataplane struct {
	Schema     string      `json:"schema"`
	Engine     string      `json:"engine"` // kernel or user
	Reason     string      `json:"reason,omitempty"`
	Detail     string      `json:"detail,omitempty"`
	Kernel     string      `json:"kernel,omitempty"`
	Pin        string      `json:"pin,omitempty"`
	Orphans    int         `json:"orphans"`
	Interfaces []Interface `json:"interfaces"`
	Paths      []Path      `json:"paths"`
	Verdicts   []Verdict   `json:"verdicts"`
}

// Interface is one the kernel engine looked at.
type Interface struct {
	Name   string `json:"name"`
	Driver string `json:"driver"`
	Path   string `json:"path"`
	Why    string `json:"why,omitempty"`
}

// Path is what one path has forwarded.
type Path struct {
	Path    string `json:"path"`
	Packets uint64 `json:"packets"`
	Octets  uint64 `json:"octets"`
}

// Verdict counts what a kernel program did with packets.
type Verdict struct {
	Program string `json:"program"`
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
}

// Failure is the document of a request that failed.
type Failure struct {
	Schema string   `json:"schema"`
	Error  string   `json:"error"`
	Among  []string `json:"among,omitempty"` // ids that an ambiguous one could mean
}
