package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/bpf"
	"github.com/sluicegw/sluice/dataplane"
)

// How many streams fit when Config does not say, and at most.
const (
	DefaultStreams = 4096
	MostStreams    = 1 << 18
)

// Interface is a network interface that the kernel may take packets from.
type Interface struct {
	Name   string
	Attach Attach
}

// Config of an Engine.
type Config struct {
	// PinDir lies on a bpf filesystem and is made if missing; "" is
	// /sys/fs/bpf/sluice. One running engine has it for itself.
	PinDir string
	// Networks are the plane's.
	Networks []dataplane.Network
	// Interfaces are served; every other is left to the user engine. Nil means
	// every interface of the networks but loopback.
	Interfaces []Interface
	// Streams is how many streams fit at once, a power of two; 0 is
	// DefaultStreams. About 17 KiB are set aside for each. Adopted maps keep
	// their size while there are streams in them.
	Streams int
	// Logger; nil discards.
	Logger *slog.Logger
}

// Engine is the kernel's side of the data plane, a dataplane.Forwarder.
type Engine struct {
	log         *slog.Logger
	runsAlone   bool // Inject is safe
	dir         *directory
	objects     *objects
	routes      *netlink.Handle
	attachments []*attachment
	networks    map[string]*attachment // by network name; absent: user engine
	report      Report

	mu       sync.Mutex
	closed   bool
	flows    map[dataplane.FlowID]*flow
	streams  map[bpf.StreamKey]*flow // those in the map of that name, but orphans
	sessions map[dataplane.SessionID]*session
	bindings map[bpf.BindingKey]uint32 // session slot
	orphans  []*orphan
	slots    slots

	rings   rings
	keys    *keyStore
	devices map[uint32]device // by interface index; only where it matters
	filler  *filler
	graves  graves
	stop    context.CancelFunc
	workers sync.WaitGroup
}

var _ dataplane.Forwarder = (*Engine)(nil)

// New probes what kernel and interfaces can do, loads or adopts the programs
// and maps, attaches them and starts the background work. It must run in the
// network namespace of the interfaces and needs CAP_BPF, CAP_PERFMON and
// CAP_NET_ADMIN; nothing later needs any. When no interface can be served it
// fails with an *UnavailableError that has the probes' report.
func New(cfg Config) (_ *Engine, err error) {
	e := &Engine{
		log:      cfg.Logger,
		networks: make(map[string]*attachment),
		flows:    make(map[dataplane.FlowID]*flow),
		streams:  make(map[bpf.StreamKey]*flow),
		sessions: make(map[dataplane.SessionID]*session),
		bindings: make(map[bpf.BindingKey]uint32),
		report:   Report{Kernel: kernelRelease(), Layout: bpf.Layout},

		runsAlone: runsAlone(),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	streams := cfg.Streams
	if streams == 0 {
		streams = DefaultStreams
	}
	if streams < 0 || streams > MostStreams || streams&(streams-1) != 0 {
		return nil, fmt.Errorf("streams: %d is not a power of two up to %d", cfg.Streams, MostStreams)
	}
	defer func() {
		if err != nil {
			e.release()
		}
	}()
	if err := e.privileges(); err != nil {
		return nil, err
	}
	if e.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	served, err := e.served(cfg)
	if err != nil {
		return nil, err
	}
	if len(served) == 0 {
		return nil, e.unavailable(dataplane.ReasonInterface, errors.New("no interface but loopback belongs to a network: list one to serve it"))
	}
	if e.dir, err = openDirectory(cfg.PinDir); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return nil, e.unavailable(dataplane.ReasonNoCapability, err)
		}
		return nil, err
	}
	e.report.PinDir = e.dir.path
	old, err := e.open(capacity{streams: uint32(streams)})
	if err != nil {
		return nil, err
	}
	if err := e.attach(served, old); err != nil {
		return nil, err
	}
	if err := e.describeInterfaces(); err != nil {
		return nil, err
	}
	if err := e.adopt(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.workers.Go(func() { e.filler.run(ctx) })
	e.workers.Go(func() { e.tidy(ctx) })
	e.log.Info("kernel data plane ready", "report", e.report.String())
	return e, nil
}

func (e *Engine) privileges() error {
	have, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	if missing := have.missing(); len(missing) > 0 {
		return e.unavailable(dataplane.ReasonNoCapability, fmt.Errorf("the process has no %s: give them to the service, they are dropped after the start", joinNames(missing)))
	}
	return nil
}

func (e *Engine) unavailable(reason dataplane.Reason, err error) error {
	e.report.Reason, e.report.Detail = reason, err.Error()
	return &UnavailableError{Reason: reason, Report: e.report, Err: err}
}

// open adopts this layout's programs and maps or makes them. It returns the
// directories of other layouts, whose links are to be taken over.
func (e *Engine) open(c capacity) (old []string, err error) {
	current := e.dir.layout(bpf.Layout)
	e.objects, err = open(current)
	switch {
	case err == nil && !e.resize(c):
		e.report.Adopted = true
	case err == nil:
		e.objects.close()
		e.objects = nil
		if err := e.dir.setAside(bpf.Layout); err != nil {
			return nil, err
		}
	case errors.Is(err, errIncompatible):
		e.log.Warn("pinned maps say they are this layout and are not, replacing them", "error", err)
		if err := e.dir.setAside(bpf.Layout); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if e.objects == nil {
		if e.objects, err = load(c); err != nil {
			return nil, e.unavailable(loadReason(err), err)
		}
		if err := e.dir.create(bpf.Layout, e.objects.pin); err != nil {
			return nil, err
		}
	}
	if old, err = e.dir.others(bpf.Layout); err != nil {
		return nil, err
	}
	e.report.Replaced = len(old) > 0
	return old, nil
}

// resize tells whether adopted maps have another size than wanted and nothing
// in them, so that new ones may take their place.
func (e *Engine) resize(c capacity) bool {
	have := e.objects.maps.streams.MaxEntries()
	if have == c.streams {
		return false
	}
	var key bpf.StreamKey
	if err := e.objects.maps.streams.NextKey(nil, &key); errors.Is(err, ebpf.ErrKeyNotExist) {
		return true
	}
	e.log.Warn("maps keep their size until the streams of an earlier run have ended and the gateway starts again",
		"streams", have, "wanted", c.streams)
	return false
}

// loadReason names why programs do not load.
func loadReason(err error) dataplane.Reason {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && !isVerifierError(err) {
		return dataplane.ReasonNoCapability
	}
	return dataplane.ReasonKernelTooOld
}

func isVerifierError(err error) bool {
	var v *ebpf.VerifierError
	return errors.As(err, &v)
}

func (e *Engine) attach(served []target, old []string) error {
	a := &attacher{objects: e.objects, dir: e.dir.layout(bpf.Layout), old: old, tcx: haveTCX(e.objects.tc)}
	e.report.TCX = a.tcx
	byIndex := make(map[int]*attachment)
	anyKernel := false
	for _, t := range served {
		at, ok := byIndex[t.link.Attrs().Index]
		if !ok {
			at = a.attach(t.link, t.attach)
			at.vrf = inVRF(t.link)
			at.chooseRouting()
			byIndex[t.link.Attrs().Index] = at
			e.attachments = append(e.attachments, at)
			e.report.Interfaces = append(e.report.Interfaces, at.report)
		}
		if at.report.Path == PathUser {
			continue
		}
		anyKernel = true
		for _, n := range t.networks {
			e.networks[n] = at
		}
	}
	for _, dir := range old {
		if err := e.dir.discard(dir); err != nil {
			return err
		}
	}
	if !anyKernel {
		return e.unavailable(dataplane.ReasonInstallFailed, fmt.Errorf("no interface takes the programs: %s", e.report.Interfaces[0].Why))
	}
	return nil
}

// Report returns what the probes at start found.
func (e *Engine) Report() Report {
	r := e.report
	r.Interfaces = slices.Clone(r.Interfaces)
	return r
}

// Path implements dataplane.Forwarder.
func (e *Engine) Path(network string) string {
	if at, ok := e.networks[network]; ok {
		return at.report.Path
	}
	return PathUser
}

// Close ends the background work and wipes what was removed. Programs, links
// and the streams that are still installed stay and go on forwarding.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.workers.Wait()
	err := e.bury(time.Time{})
	e.release()
	return err
}

// release closes descriptors. It runs once, with no other user left.
func (e *Engine) release() {
	e.rings.close()
	e.keys.close()
	for _, a := range e.attachments {
		a.close()
	}
	if e.objects != nil {
		e.objects.close()
	}
	if e.routes != nil {
		e.routes.Close()
	}
	if e.dir != nil {
		e.dir.close()
	}
}
