package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	pion "github.com/pion/srtp/v3"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluicegw/sluice/dataplane/srtp"
	"github.com/sluicegw/sluice/internal/ring"
)

// Answers of the programs.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
	tcNext      = 0xffffffff // TC_ACT_UNSPEC: on to other programsxffffffff // TC_ACT_UNSPEC: the next program of the hook
	tcShot      = 2
	tcRedirect  = 7
)

// Where the rig's packets come from and go to: the far end of in is bound, the
// far end of out has a known link address, stranger none, narrow a small MTU.
var (
	gatewayIn  = [2]netip.AddrPort{netip.MustParseAddrPort("10.1.0.1:5000"), netip.MustParseAddrPort("[fd01::1]:5000")}
	farIn      = [2]netip.AddrPort{netip.MustParseAddrPort("10.1.0.2:6000"), netip.MustParseAddrPort("[fd01::2]:6000")}
	gatewayOut = [2]netip.AddrPort{netip.MustParseAddrPort("10.2.0.1:7000"), netip.MustParseAddrPort("[fd02::1]:7000")}
	farOut     = [2]netip.AddrPort{netip.MustParseAddrPort("10.2.0.2:8000"), netip.MustParseAddrPort("[fd02::2]:8000")}
	stranger   = [2]netip.AddrPort{netip.MustParseAddrPort("10.2.0.9:8000"), netip.MustParseAddrPort("[fd02::9]:8000")}
	nowhere    = [2]netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:8000"), netip.MustParseAddrPort("[fd09::9]:8000")}

	farLink = net.HardwareAddr{2, 0, 0, 0, 2, 2}
)

// rig is the programs in a network namespace of their own: the routes are real,
// packets come and go by BPF_PROG_TEST_RUN.
type rig struct {
	t        testing.TB
	maps     map[string]*ebpf.Map
	programs map[Program]*ebpf.Program
	control  *ebpf.Program
	out      netlink.Link // where farOut is
	ring     []Keystream
	large    []KeystreamLarge
	work     chan func()
	far      netns.NsHandle // of wire
	sessions uint32
	streams  uint32
	// as BPF_PROG_TEST_RUN gives it: an XDP frame comes by lo unless told
	data []byte
}

func newRig(t testing.TB, entries map[string]uint32) *rig {
	t.Helper()
	ring.Needs(t, ring.Root)
	r := &rig{t: t, maps: map[string]*ebpf.Map{}, programs: map[Program]*ebpf.Program{}, data: make([]byte, 4096)}
	r.enter()
	r.inside(r.network)
	spec, err := LoadControl()
	must(t, err)
	spec.Maps[ControlMapKeystream].MaxEntries = 4096
	spec.Maps[ControlMapKeystreamLarge].MaxEntries = 1024
	spec.Maps[ControlMapStreams].MaxEntries = 256
	spec.Maps[ControlMapStates].MaxEntries = 256
	spec.Maps[ControlMapDrops].MaxEntries = 256
	spec.Maps[ControlMapSessions].MaxEntries = 256
	for name, n := range entries {
		spec.Maps[name].MaxEntries = n
	}
	c := r.load(spec)
	r.maps = c.Maps
	r.control = c.Programs[ControlProgSluiceControl]
	for program, source := range map[Program]func() (*ebpf.CollectionSpec, error){ProgramXDP: LoadXDP, ProgramTC: LoadTC} {
		spec, err := source()
		must(t, err)
		for _, p := range r.load(spec).Programs {
			r.programs[program] = p
		}
	}
	r.ring = smallSlots(r.mapped(r.maps[ControlMapKeystream]))
	r.large = largeSlots(r.mapped(r.maps[ControlMapKeystreamLarge]))
	return r
}

// enter starts the thread that lives in the rig's namespace; it ends, and the
// namespace with it, with the test.
func (r *rig) enter() {
	r.t.Helper()
	r.work = make(chan func())
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread must not be used again
		space, err := netns.New()
		entered <- err
		if err != nil {
			return
		}
		defer space.Close()
		for f := range r.work {
			f()
		}
	}()
	must(r.t, <-entered)
	r.t.Cleanup(func() { close(r.work) })
}

// inside runs f in the rig's namespace.
func (r *rig) inside(f func()) {
	done := make(chan struct{})
	r.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) load(spec *ebpf.CollectionSpec) *ebpf.Collection {
	r.t.Helper()
	shared := map[string]*ebpf.Map{}
	for name, m := range r.maps {
		if s := spec.Maps[name]; s != nil && !strings.HasPrefix(name, ".") {
			s.MaxEntries = m.MaxEntries()
			shared[name] = m
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		r.t.Fatalf("%s", strings.Join(verifier.Log[max(0, len(verifier.Log)-40):], "\n"))
	}
	must(r.t, err)
	r.t.Cleanup(c.Close)
	return c
}

func (r *rig) mapped(m *ebpf.Map) []byte {
	r.t.Helper()
	b, err := unix.Mmap(m.FD(), 0, int(m.ValueSize()*m.MaxEntries()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(r.t, err)
	r.t.Cleanup(func() { must(r.t, unix.Munmap(b)) })
	return b
}

func (r *rig) network() {
	r.t.Helper()
	must(r.t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	must(r.t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	must(r.t, os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0))
	lo, err := netlink.LinkByName("lo")
	must(r.t, err)
	must(r.t, netlink.LinkSetUp(lo))
	must(r.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out0", MTU: 1500}, PeerName: "far0"}))
	r.out, err = netlink.LinkByName("out0")
	must(r.t, err)
	far, err := netlink.LinkByName("far0")
	must(r.t, err)
	must(r.t, netlink.LinkSetUp(far))
	must(r.t, netlink.LinkSetUp(r.out))
	for _, cidr := range []string{"10.2.0.1/24", "fd02::1/64"} {
		a, err := netlink.ParseAddr(cidr)
		must(r.t, err)
		a.Flags = unix.IFA_F_NODAD
		must(r.t, netlink.AddrAdd(r.out, a))
	}
	for _, far := range farOut {
		must(r.t, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: r.out.Attrs().Index, IP: far.Addr().AsSlice(),
			HardwareAddr: farLink, State: netlink.NUD_PERMANENT,
		}))
	}
}

// party is one SRTP direction known to all: the programs by slot and epoch, pion
// as the far end.
type party struct {
	profile Profile
	slot    uint32
	epoch   uint32
	keys    *srtp.SessionKeys
	master  srtp.MasterKey
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

var masters = map[Profile]srtp.Profile{AESCM: srtp.ProfileAES128CMHMACSHA1_80, AEADGCM: srtp.ProfileAEADAES128GCM}

// session takes a session slot with fresh keys of the profile.
func (r *rig) session(profile Profile, rnd *rand.Rand) party {
	r.t.Helper()
	p := party{profile: profile, slot: r.sessions}
	r.sessions++
	if profile == Plain {
		return p
	}
	p.epoch = 1 + rnd.Uint32()>>1
	p.master = srtp.MasterKey{Profile: masters[profile], Key: random(rnd, 16), Salt: random(rnd, masters[profile].SaltLen())}
	keys, err := srtp.Derive(p.master)
	must(r.t, err)
	p.keys = keys
	s, err := newSession(profile, keys.RTPKey, keys.RTPAuth, keys.RTPSalt, p.epoch)
	must(r.t, err)
	must(r.t, r.maps[ControlMapSessions].Put(p.slot, s))
	return p
}

// oracle is pion's context on the party's keys, with its replay protection off.
func (p party) oracle(t testing.TB) *pion.Context {
	t.Helper()
	c, err := pion.CreateContext(p.master.Key, p.master.Salt, pion.ProtectionProfile(p.master.Profile),
		pion.SRTPNoReplayProtection())
	must(t, err)
	return c
}

func wide(a netip.Addr) (b [16]byte) {
	if a.Is4() {
		v4 := a.As4()
		copy(b[12:], v4[:])
		return b
	}
	return a.As16()
}

func network16(v uint16) uint16 { return v<<8 | v>>8 }

// installed is a stream as the rig put it in place.
type installed struct {
	key    StreamKey
	value  Stream
	family int // 0 IPv4, 1 IPv6
	in     party
	out    party
	slot   uint32
}

// install binds the far end of the family and puts a stream in, as yet without
// keystream. change may alter the constants and the state first.
func (r *rig) install(in, out party, family int, ssrc uint32, change func(*Stream, *State)) *installed {
	r.t.Helper()
	s := &installed{key: StreamKey{Session: in.slot, Ssrc: ssrc}, family: family, in: in, out: out, slot: r.streams}
	r.streams++
	v := Stream{
		Slot: s.slot, InProfile: uint8(in.profile), OutProfile: uint8(out.profile),
		Family: uint8(4 + 2*family), InSession: in.slot, OutSession: out.slot, InEpoch: in.epoch, OutEpoch: out.epoch,
		IndexOffset: 0x5_4321, OutSsrc: 0xabcd0000 + s.slot, TimestampAdd: 0xfff00000,
		Source: wide(gatewayOut[family].Addr()), Destination: wide(farOut[family].Addr()),
		SourcePort: network16(gatewayOut[family].Port()), DestinationPort: network16(farOut[family].Port()),
		OutIfindex: uint32(r.out.Attrs().Index), LinkIfindex: uint32(r.out.Attrs().Index),
		ClockQ32: uint32(8000 << 32 / 1_000_000_000),
	}
	for i := range v.Payload {
		v.Payload[i] = PayloadUp
	}
	v.Payload[0], v.Payload[96] = 8, 0
	state := State{Until: IndexLimit}
	if change != nil {
		change(&v, &state)
	}
	s.value = v
	must(r.t, r.maps[ControlMapStates].Put(s.slot, &state))
	must(r.t, r.maps[ControlMapStreams].Put(s.key, &v))
	r.bind(in.slot, gatewayIn[family], farIn[family])
	return s
}

func (r *rig) bind(session uint32, local, remote netip.AddrPort) {
	r.t.Helper()
	key := BindingKey{
		Local: wide(local.Addr()), Remote: wide(remote.Addr()),
		LocalPort: network16(local.Port()), RemotePort: network16(remote.Port()), Family: 4,
	}
	if local.Addr().Is6() {
		key.Family = 6
	}
	must(r.t, r.maps[ControlMapBindings].Put(key, Binding{Session: session}))
}

func (r *rig) state(s *installed) State {
	r.t.Helper()
	var state State
	must(r.t, r.maps[ControlMapStates].LookupWithFlags(s.slot, &state, ebpf.LookupLock))
	state.Lock.Val = 0
	return state
}

func (r *rig) drops(s *installed) (n uint64) {
	r.t.Helper()
	var per []uint64
	must(r.t, r.maps[ControlMapDrops].Lookup(s.slot, &per))
	for _, v := range per {
		n += v
	}
	return n
}

func (r *rig) counters(p Program) (sum Counters) {
	r.t.Helper()
	var per []Counters
	must(r.t, r.maps[ControlMapVerdicts].Lookup(uint32(p), &per))
	for _, c := range per {
		for i, v := range c.Verdict {
			sum.Verdict[i] += v
		}
		for i, v := range c.Event {
			sum.Event[i] += v
		}
	}
	return sum
}

// moved names what moved between two readings of the counters.
func moved(before, after Counters) []string {
	var names []string
	for i := range before.Verdict {
		for range after.Verdict[i] - before.Verdict[i] {
			names = append(names, Verdict(i).String())
		}
	}
	for i := range before.Event {
		for range after.Event[i] - before.Event[i] {
			names = append(names, Event(i).String())
		}
	}
	slices.Sort(names)
	return names
}

// run passes one frame through a program.
func (r *rig) run(p Program, frame []byte) (uint32, []byte) {
	r.t.Helper()
	o := ebpf.RunOptions{Data: frame, DataOut: r.data}
	var answer uint32
	var err error
	r.inside(func() { answer, err = r.programs[p].Run(&o) })
	must(r.t, err)
	return answer, o.DataOut
}

// fill publishes keystream for an index of the stream in a ring that it makes
// at base.
func (r *rig) fill(k *keystreamSource, base, mask uint32, epoch uint16, index uint64) {
	k.Fill(&r.ring[base+uint32(index)&mask], epoch, index, KeystreamSmall)
}

// frame puts an RTP packet into UDP, IP and Ethernet, with right checksums.
func frame(from, to netip.AddrPort, vlan uint16, rtp []byte) []byte {
	var b bytes.Buffer
	b.Write([]byte{2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2})
	if vlan != 0 {
		b.Write([]byte{0x81, 0, byte(vlan >> 8), byte(vlan)})
	}
	udp := make([]byte, 8, 8+len(rtp))
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(rtp)))
	udp = append(udp, rtp...)
	check := ^checksum(pseudo(from.Addr(), to.Addr(), len(udp)), udp)
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	if from.Addr().Is4() {
		b.Write([]byte{8, 0})
		ip := []byte{0x45, 0xb8, 0, 0, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0}
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
		ip = append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(ip[10:], ^checksum(0, ip))
		b.Write(ip)
	} else {
		b.Write([]byte{0x86, 0xdd})
		ip := []byte{0x6b, 0x80, 0, 0, 0, 0, 17, 64}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		b.Write(append(append(ip, from.Addr().AsSlice()...), to.Addr().AsSlice()...))
	}
	b.Write(udp)
	return b.Bytes()
}

func pseudo(from, to netip.Addr, length int) uint32 {
	return uint32(checksum(uint32(17+length), append(from.AsSlice(), to.AsSlice()...)))
}

func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// addrPort is the n-th other place near a.
func addrPort(a netip.AddrPort, n uint32) netip.AddrPort {
	b := a.Addr().As4()
	b[2] = byte(n >> 8)
	b[3] = byte(n)
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(10000+n))
}
