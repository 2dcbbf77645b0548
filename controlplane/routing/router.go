// Package routing decides where an INVITE goes: to the bindings of a user, to a
// trunk, or nowhere. What no rule allows is refused.
package routing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicegw/sluice/controlplane/call"
	"github.com/sluicegw/sluice/controlplane/location"
)

// User is somebody who may register and call.
type User struct {
	Name    string
	Display string // shown with outgoing calls; "" shows what the user's device says
	SDES    bool   // offer SDES-SRTP to the user's phones
}

// Trunk is a configured peer: a PBX or a carrier.
type Trunk struct {
	Name      string
	Network   string // it is reached by
	Host      string // name or address without brackets
	Port      uint16 // 0: the transport's default, or DNS SRV
	Transport string // "udp", "tcp", "tls"; "" is udp
	Domain    string // host part of From and To towards it; "": Config.Domain and Host
	CallerID  string // number shown for every user; "": the user's name
	Username  string // digest credentials, "" none
	Password  string
	SDES      bool // offer SDES-SRTP
}

// Route sends what is dialled to a trunk, or what a trunk dials to a user.
type Route struct {
	Prefix string // of the dialled user part, "" any
	Domain string // of the request URI; "": the gateway's own
	From   string // trunk whose calls it is for; "": calls of users
	Strip  int    // characters dropped from the front
	Add    string // put in front after that
	Trunk  string // destination, or
	User   string // destination
}

// Config of a Router.
type Config struct {
	Domain string
	Hosts  []string // further names and addresses that are the gateway itself
	Users  []User
	Trunks []Trunk
	Routes []Route // the longest prefix wins, then the first
}

// Locator finds where a user is reachable.
type Locator interface {
	Lookup(ctx context.Context, aor string) ([]location.Binding, error)
}

// Router implements call.Router. It is immutable and safe for concurrent use.
type Router struct {
	domain string
	hosts  map[string]struct{}
	users  map[string]User
	trunks map[string]Trunk
	routes []Route
	where  Locator
}

// New checks cfg and returns all its errors at once.
func New(cfg Config, where Locator) (*Router, error) {
	r := &Router{
		domain: strings.ToLower(cfg.Domain), hosts: map[string]struct{}{}, where: where,
		users: map[string]User{}, trunks: map[string]Trunk{}, routes: slices.Clone(cfg.Routes),
	}
	var errs []error
	if cfg.Domain == "" {
		errs = append(errs, errors.New("routing: domain must be set"))
	}
	for _, h := range append(cfg.Hosts, cfg.Domain) {
		r.hosts[hostKey(h)] = struct{}{}
	}
	for _, u := range cfg.Users {
		if _, twice := r.users[u.Name]; twice {
			errs = append(errs, fmt.Errorf("routing: user %q is configured twice", u.Name))
		}
		r.users[u.Name] = u
	}
	for _, t := range cfg.Trunks {
		if _, twice := r.trunks[t.Name]; twice {
			errs = append(errs, fmt.Errorf("routing: trunk %q is configured twice", t.Name))
		}
		switch strings.ToLower(t.Transport) {
		case "", "udp", "tcp", "tls":
		default:
			errs = append(errs, fmt.Errorf("routing: trunk %q: transport must be udp, tcp or tls, not %q", t.Name, t.Transport))
		}
		switch {
		case t.Host == "":
			errs = append(errs, fmt.Errorf("routing: trunk %q needs a host", t.Name))
		case r.own(t.Host) && t.Port == 0:
			errs = append(errs, fmt.Errorf("routing: trunk %q leads back to this gateway", t.Name))
		}
		r.trunks[t.Name] = t
	}
	for i, rt := range r.routes {
		errs = append(errs, r.checkRoute(i, rt)...)
		r.routes[i].Domain = hostKey(rt.Domain)
	}
	slices.SortStableFunc(r.routes, func(a, b Route) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
	return r, errors.Join(errs...)
}

func (r *Router) checkRoute(i int, rt Route) (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("routing: route %d: "+format, append([]any{i + 1}, args...)...))
	}
	if (rt.Trunk == "") == (rt.User == "") {
		bad("give it a trunk or a user, one of them")
	}
	if _, ok := r.trunks[rt.Trunk]; rt.Trunk != "" && !ok {
		bad("there is no trunk %q", rt.Trunk)
	}
	if _, ok := r.users[rt.User]; rt.User != "" && !ok {
		bad("there is no user %q", rt.User)
	}
	if _, ok := r.trunks[rt.From]; rt.From != "" && !ok {
		bad("there is no trunk %q to come from", rt.From)
	}
	if rt.Strip < 0 {
		bad("strip must not be negative")
	}
	if rt.From != "" && rt.Trunk != "" && rt.Prefix == "" {
		bad("calls from one trunk to another need a prefix: without one anybody could call on your account")
	}
	return errs
}

// Route implements call.Router.
func (r *Router) Route(ctx context.Context, inv call.Invite) (call.Decision, error) {
	from, no := r.caller(inv)
	if no != nil {
		return call.Decision{}, no
	}
	if inv.MaxForwards() <= 0 {
		return call.Decision{}, refuse(483, "Too Many Hops", "Max-Forwards is used up")
	}
	to := inv.To()
	if to.User == "" {
		return call.Decision{}, refuse(404, "Not Found", "the request URI names nobody")
	}
	dialled := normalise(to.User)
	if r.own(to.Host) {
		if u, ok := r.users[dialled]; ok {
			return r.toUser(ctx, inv, u, from)
		}
	}
	rt, ok := r.match(inv.Party().Trunk, dialled, to.Host)
	switch {
	case !ok:
		return call.Decision{}, refuse(404, "Not Found", fmt.Sprintf("no user and no route for %q at %q", dialled, to.Host))
	case rt.User != "":
		return r.toUser(ctx, inv, r.users[rt.User], from)
	}
	return r.toTrunk(inv, rt, dialled, from)
}

// caller checks who is calling and returns the identity that callees are shown.
func (r *Router) caller(inv call.Invite) (call.Address, *call.Refusal) {
	p, from := inv.Party(), inv.From()
	switch {
	case p.User != "":
		u, ok := r.users[p.User]
		if !ok {
			return from, refuse(403, "Forbidden", fmt.Sprintf("user %q is not configured", p.User))
		}
		if from.User != p.User {
			return from, refuse(403, "Forbidden", fmt.Sprintf("user %q may not call as %q", p.User, from.User))
		}
		return call.Address{Display: cmp.Or(u.Display, from.Display), User: p.User, Host: r.domain}, nil
	case p.Trunk != "":
		if _, ok := r.trunks[p.Trunk]; !ok {
			return from, refuse(403, "Forbidden", fmt.Sprintf("trunk %q is not configured", p.Trunk))
		}
		// A trunk's caller is shown under our domain, so that calling back works,
		// and never under the name of one of our users.
		if _, ours := r.users[from.User]; ours || from.User == "" {
			return call.Address{Display: from.Display, User: "anonymous", Host: "anonymous.invalid"}, nil
		}
		return call.Address{Display: from.Display, User: from.User, Host: r.domain}, nil
	}
	return from, refuse(403, "Forbidden", "neither an authenticated user nor a trunk")
}

func (r *Router) toUser(ctx context.Context, inv call.Invite, u User, from call.Address) (call.Decision, error) {
	bindings, err := r.where.Lookup(ctx, location.AOR(u.Name, r.domain))
	if err != nil {
		return call.Decision{}, fmt.Errorf("routing: looking up user %q: %w", u.Name, err)
	}
	d := call.Decision{From: from, To: call.Address{Display: u.Display, User: u.Name, Host: r.domain}}
	p := inv.Party()
	for _, b := range bindings {
		if p.User == u.Name && b.Source == p.Source {
			continue // who calls their own number wants their other devices
		}
		d.Targets = append(d.Targets, call.Target{
			URI: b.Contact, Route: b.Path, Flow: b.Flow, SDES: u.SDES && !b.WebRTC, MaxForwards: inv.MaxForwards() - 1,
			Party: call.Party{User: u.Name, Network: b.Network, Source: b.Source, WebRTC: b.WebRTC, Instance: b.Instance},
		})
	}
	if len(d.Targets) == 0 {
		return call.Decision{}, refuse(480, "Temporarily Unavailable", fmt.Sprintf("user %q is registered nowhere else", u.Name))
	}
	if inv.MaxForwards() == 1 {
		return call.Decision{}, refuse(483, "Too Many Hops", "Max-Forwards is used up")
	}
	return d, nil
}

func (r *Router) toTrunk(inv call.Invite, rt Route, dialled string, from call.Address) (call.Decision, error) {
	t := r.trunks[rt.Trunk]
	if inv.Party().Trunk == t.Name {
		return call.Decision{}, refuse(482, "Loop Detected", fmt.Sprintf("the call came from trunk %q and would go back to it", t.Name))
	}
	if inv.MaxForwards() == 1 {
		return call.Decision{}, refuse(483, "Too Many Hops", "Max-Forwards is used up")
	}
	number := rt.Add + dialled[min(rt.Strip, len(dialled)):]
	if number == "" {
		return call.Decision{}, refuse(484, "Address Incomplete", "nothing is left of the number after strip")
	}
	if inv.Party().User != "" {
		// A display name is the user's own words; a carrier would pass it on as ours.
		from = call.Address{User: cmp.Or(t.CallerID, from.User), Host: from.Host}
	}
	if t.Domain != "" && from.User != "anonymous" {
		from.Host = t.Domain
	}
	party := call.Party{Trunk: t.Name, Network: t.Network}
	if a, err := netip.ParseAddr(t.Host); err == nil {
		party.Source = netip.AddrPortFrom(a, cmp.Or(t.Port, defaultPort(t.Transport)))
	}
	return call.Decision{
		From: from,
		To:   call.Address{User: number, Host: cmp.Or(t.Domain, t.Host)},
		Targets: []call.Target{{
			URI: trunkURI(t, number), Party: party, Username: t.Username, Password: t.Password, SDES: t.SDES,
			MaxForwards: inv.MaxForwards() - 1,
		}},
	}, nil
}

// match finds the route of a call: routes are sorted by prefix length.
func (r *Router) match(trunk, dialled, host string) (Route, bool) {
	for _, rt := range r.routes {
		if rt.From != trunk || !strings.HasPrefix(dialled, rt.Prefix) {
			continue
		}
		if rt.Domain == "" && r.own(host) || rt.Domain != "" && rt.Domain == hostKey(host) {
			return rt, true
		}
	}
	return Route{}, false
}

func (r *Router) own(host string) bool {
	_, ok := r.hosts[hostKey(host)]
	return ok
}

func refuse(code int, reason, why string) *call.Refusal {
	return &call.Refusal{Code: code, Reason: reason, Why: why}
}

// hostKey makes hosts comparable: lower case, no brackets, one form of an address.
func hostKey(h string) string {
	h = strings.ToLower(strings.TrimSuffix(strings.Trim(h, "[]"), "."))
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Unmap().String()
	}
	return h
}

func defaultPort(transport string) uint16 {
	if strings.EqualFold(transport, "tls") {
		return 5061
	}
	return 5060
}

func trunkURI(t Trunk, user string) string {
	host := t.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if t.Port != 0 {
		host += ":" + strconv.Itoa(int(t.Port))
	}
	uri := "sip:" + escapeUser(user) + "@" + host
	if tr := strings.ToLower(t.Transport); tr != "" && tr != "udp" {
		uri += ";transport=" + tr
	}
	return uri
}
