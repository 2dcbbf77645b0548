package webrtc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"

	"github.com/sluicegw/sluice/controlplane/sdp"
	"github.com/sluicegw/sluice/dataplane/srtp"
)

// timeouts of an association.
type timeouts struct {
	connect   time.Duration // for the browser's first nominated check
	handshake time.Duration // for DTLS once a pair is selected
	// consent is RFC 7675 5.1: nothing is sent to a browser whose checks have
	// stopped for so long.
	consent time.Duration
	// grace lets the signalling that usually comes with a close_notify end the
	// call with its own reason.
	grace time.Duration
}

func defaultTimeouts() timeouts {
	return timeouts{connect: 30 * time.Second, handshake: 30 * time.Second, consent: 30 * time.Second, grace: 2 * time.Second}
}

// remote is the far end's half of the association, as signalled.
type remote struct {
	ufrag, pwd   string
	fingerprints []sdp.Fingerprint
	server       bool // the far end is the DTLS server (a=setup:passive)
}

// hooks are what an association reports. None is called after close returned.
type hooks struct {
	pair   func(local, remote netip.AddrPort)
	keys   func(rx, tx srtp.MasterKey) error
	up     func()
	failed func(error)
	// consent tells that the browser's consent has run out, or is back.
	consent func(alive bool)
}

// association is one browser's ICE and DTLS, for the life of the leg.
type association struct {
	id    *identity
	end   *endpoint
	agent *ice.Agent
	hooks hooks
	wait  timeouts
	log   *slog.Logger

	started  bool
	paired   chan struct{} // closed at the first selected pair
	pairOnce sync.Once

	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	closed sync.Once

	established atomic.Bool
	failure     atomic.Pointer[error]
	profile     atomic.Uint32 // srtp.Profile
}

func newAssociation(m *mux, id *identity, h hooks, log *slog.Logger) (_ *association, err error) {
	end, err := m.endpoint(id.ufrag)
	if err != nil {
		return nil, err
	}
	a := &association{id: id, end: end, hooks: h, wait: defaultTimeouts(), log: log, paired: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			a.cancel()
			if a.agent != nil {
				_ = a.agent.Close()
			}
			end.close()
		}
	}()
	a.agent, err = ice.NewAgentWithOptions(
		ice.WithICELite(true),
		ice.WithNet(m.system),
		ice.WithCandidateTypes([]ice.CandidateType{ice.CandidateTypeHost}),
		ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithLocalCredentials(id.ufrag, id.pwd),
		ice.WithIncludeLoopback(),
		// Liveness is the data plane's and the consent clock's to say.
		ice.WithDisconnectedTimeout(0),
		ice.WithFailedTimeout(0),
		ice.WithLoggerFactory(quiet{log}),
	)
	if err != nil {
		return nil, fmt.Errorf("webrtc: ICE agent: %w", err)
	}
	if err = a.agent.OnSelectedCandidatePairChange(a.selected); err != nil {
		return nil, fmt.Errorf("webrtc: ICE agent: %w", err)
	}
	for i, c := range end.ice {
		udp, ok := c.LocalAddr().(*net.UDPAddr)
		if !ok {
			return nil, fmt.Errorf("webrtc: the browser socket %d has no UDP address", i)
		}
		cand, err := ice.NewCandidateHost(&ice.CandidateHostConfig{
			Network: "udp", Address: udp.AddrPort().Addr().Unmap().String(), Port: udp.Port,
			Component: ice.ComponentRTP, Priority: hostPriority(i),
		})
		if err != nil {
			return nil, fmt.Errorf("webrtc: host candidate: %w", err)
		}
		if err := a.agent.AddVirtualCandidate(cand, c); err != nil {
			return nil, fmt.Errorf("webrtc: host candidate: %w", err)
		}
	}
	return a, nil
}

// hostPriority is RFC 8445 5.1.2.1 with the network's order of addresses as the
// local preference.
func hostPriority(i int) uint32 { return 126<<24 | uint32(65535-i)<<8 | 255 }

// start begins to answer the browser's checks. The far end is fixed by it.
func (a *association) start(r remote) error {
	if a.started {
		return nil
	}
	if _, err := a.agent.StartAccept(r.ufrag, r.pwd); err != nil {
		return fmt.Errorf("webrtc: ICE: %w", err)
	}
	a.started = true
	a.done.Go(func() { a.run(r) })
	return nil
}

// selected is called by the agent when the browser nominates a pair.
func (a *association) selected(local, far ice.Candidate) {
	if a.ctx.Err() != nil {
		return
	}
	l, lerr := netip.ParseAddr(local.Address())
	f, ferr := netip.ParseAddr(far.Address())
	if lerr != nil || ferr != nil {
		return
	}
	localAddr := netip.AddrPortFrom(l.Unmap(), uint16(local.Port()))
	farAddr := netip.AddrPortFrom(f.Unmap(), uint16(far.Port()))
	socket, ok := a.end.socketOf(localAddr)
	if !ok {
		return
	}
	a.end.selected.Store(&peer{socket, farAddr})
	a.hooks.pair(localAddr, farAddr)
	a.pairOnce.Do(func() { close(a.paired) })
}

func (a *association) run(r remote) {
	timeout := time.NewTimer(a.wait.connect)
	defer timeout.Stop()
	select {
	case <-a.ctx.Done():
		return
	case <-timeout.C:
		a.fail(fmt.Errorf("no ICE check from the browser succeeded within %v: check that it can reach our candidates by UDP", a.wait.connect))
		return
	case <-a.paired:
	}
	began := time.Now()
	conn, err := a.handshake(r)
	if a.ctx.Err() != nil {
		if conn != nil {
			_ = conn.Close()
		}
		return
	}
	if err != nil {
		a.fail(err)
		return
	}
	// Closing the connection on the way out sends close_notify.
	closed := make(chan struct{})
	stop := context.AfterFunc(a.ctx, func() {
		defer close(closed)
		_ = conn.Close()
	})
	defer func() {
		if stop() {
			_ = conn.Close()
		} else {
			<-closed
		}
	}()
	profile, rx, tx, err := exportKeys(conn, !r.server)
	if err == nil {
		err = a.hooks.keys(rx, tx)
	}
	if err != nil {
		a.fail(fmt.Errorf("SRTP keys: %w", err))
		return
	}
	a.profile.Store(uint32(profile))
	a.established.Store(true)
	a.log.Debug("dtls established", "took", time.Since(began), "profile", profileName(profile), "role", role(r))
	a.hooks.up()
	a.done.Go(a.watchConsent)
	a.drain(conn)
}

// watchConsent reports the loss and return of consent.
func (a *association) watchConsent() {
	alive := true
	timer := time.NewTimer(a.wait.consent)
	defer timer.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-timer.C:
		}
		left := time.Until(a.consent().Add(a.wait.consent))
		if fresh := left > 0; fresh != alive {
			alive = fresh
			a.hooks.consent(alive)
		}
		if !alive {
			left = min(time.Second, a.wait.consent/4)
		}
		timer.Reset(left)
	}
}

// drain reads the connection until it ends; nothing is ever said over it but
// its end.
func (a *association) drain(conn *dtls.Conn) {
	buf := make([]byte, maxPacket)
	for {
		_, err := conn.Read(buf)
		if a.ctx.Err() != nil {
			return
		}
		if err != nil {
			break
		}
	}
	grace := time.NewTimer(a.wait.grace)
	defer grace.Stop()
	select {
	case <-a.ctx.Done():
	case <-grace.C:
		a.fail(errors.New("the browser closed its DTLS association"))
	}
}

func (a *association) fail(err error) {
	if a.failure.CompareAndSwap(nil, &err) {
		a.hooks.failed(err)
	}
}

func (a *association) failed() error {
	if p := a.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// consent is the time of the last authenticated check, zero before the first
// (RFC 7675 5.1).
func (a *association) consent() time.Time {
	if ns := a.end.lastCheck.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// close says goodbye and releases everything.
func (a *association) close() {
	a.closed.Do(func() {
		a.cancel()
		a.done.Wait()
		_ = a.agent.GracefulClose()
		a.end.close()
	})
}
