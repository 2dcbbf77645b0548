package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/sluicegw/sluice/perf/netlab"
	"github.com/sluicegw/sluice/perf/traffic"
)

// Bench is one engine with its calls, and the traffic to drive it.
type Bench struct {
	Spec  Spec
	Lab   *netlab.Lab
	Ready Ready

	process *Process
	// ToPhones goes in on the browsers' side and comes out at the phones;
	// ToBrowsers is the other way.
	ToPhones, ToBrowsers *Way
}

// Way is one direction of all calls.
type Way struct {
	Sources []*Source
	Expect  []traffic.Stream
	From    *netlab.Host
	To      *netlab.Host
	Link    *traffic.Link // sends
}

// Source makes the frames of one stream.
type Source struct {
	writer *traffic.Writer
	framer *traffic.Framer
	buf    []byte
}

// Next makes the next frame; it is valid until the following call. Packets made
// with sent 0 are not counted for latency.
func (s *Source) Next(sent time.Duration) ([]byte, error) {
	h := s.framer.Headers()
	p, err := s.writer.Next(s.buf[h:], sent)
	if err != nil {
		return nil, err
	}
	return s.framer.Finish(s.buf, len(p)), nil
}

// Start builds the lab, starts exe as the engine in it and installs the calls.
// The caller closes the bench.
func Start(ctx context.Context, exe string, spec Spec) (_ *Bench, err error) {
	lab, err := netlab.New(spec.V6)
	if err != nil {
		return nil, err
	}
	b := &Bench{Spec: spec, Lab: lab}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.Spec.PinDir == "" {
		b.Spec.PinDir = "/sys/fs/bpf/" + lab.Gateway.Name
	}
	if b.process, err = startEngine(ctx, lab, exe, b.Spec, &b.Ready); err != nil {
		return nil, err
	}
	return b, b.wire()
}

// PathNone is a gateway that drops every packet at its door: what is left is the
// cost of making and receiving traffic, to be taken off the others' figures.
const PathNone = "none"

// StartBaseline builds the lab with nothing in the gateway.
func StartBaseline(spec Spec) (_ *Bench, err error) {
	spec.Path = PathNone
	lab, err := netlab.New(spec.V6)
	if err != nil {
		return nil, err
	}
	b := &Bench{Spec: spec, Lab: lab}
	a := lab.Addresses()
	for i := range spec.Calls {
		b.Ready.Outer = append(b.Ready.Outer, netip.AddrPortFrom(a.GatewayOutside, uint16(20000+2*i)))
		b.Ready.Phones = append(b.Ready.Phones, netip.AddrPortFrom(a.GatewayInside, uint16(20000+2*i)))
	}
	if err := b.wire(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func startEngine(ctx context.Context, lab *netlab.Lab, exe string, spec Spec, ready *Ready) (*Process, error) {
	p, err := startProcess(ctx, lab.Gateway, exec.Command(exe, "perf", "engine"))
	if err != nil {
		return nil, err
	}
	if err := p.ask(spec, ready); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if ready.Error != "" {
		return nil, errors.Join(fmt.Errorf("engine: %s", ready.Error), p.Close())
	}
	return p, nil
}

// wire makes the sources and expectations of both ways.
func (b *Bench) wire() error {
	a := b.Lab.Addresses()
	b.ToPhones = &Way{From: b.Lab.Browsers, To: b.Lab.Phones}
	b.ToBrowsers = &Way{From: b.Lab.Phones, To: b.Lab.Browsers}
	for _, w := range []struct {
		way     *Way
		gateway string
	}{{b.ToPhones, netlab.BrowserSide}, {b.ToBrowsers, netlab.PhoneSide}} {
		var target net.HardwareAddr
		if err := b.Lab.Gateway.Do(func() error {
			ifi, err := net.InterfaceByName(w.gateway)
			if err == nil {
				target = ifi.HardwareAddr
			}
			return err
		}); err != nil {
			return err
		}
		if b.Spec.Path == PathNone {
			target = net.HardwareAddr{2, 0, 0, 0, 0, 99} // nobody: dropped by the IP layer at once
		}
		if err := w.way.From.Do(func() (err error) { w.way.Link, err = traffic.OpenLink(netlab.HostSide, false); return err }); err != nil {
			return err
		}
		for i := range b.Spec.Calls {
			in, out, err := b.streams(a, i, w.way == b.ToPhones)
			if err != nil {
				return err
			}
			writer, err := traffic.NewWriter(in)
			if err != nil {
				return err
			}
			w.way.Sources = append(w.way.Sources, &Source{
				writer: writer,
				framer: traffic.NewFramer(w.way.Link.Hardware, target, in.Source, in.Destination),
				buf:    make([]byte, traffic.FrameRoom+64+b.Spec.Payload),
			})
			w.way.Expect = append(w.way.Expect, out)
		}
	}
	return nil
}

// streams of call i in one direction: as sent to the gateway, and as expected.
func (b *Bench) streams(a netlab.Addresses, i int, toPhones bool) (in, out traffic.Stream, err error) {
	browser, phone := b.Spec.browser(a, i), b.Spec.phone(a, i)
	base := traffic.Stream{ID: uint32(2 * i), PayloadType: 0, Payload: b.Spec.Payload, Samples: 160, Sequence: uint16(i * 7)}
	in, out = base, base
	in.SSRC = uint32(0x10000 + 2*i)
	outer := b.Ready.Browser
	if len(b.Ready.Outer) > 0 {
		outer = b.Ready.Outer[i]
	}
	from, to := browserSide, phoneSide
	in.Source, in.Destination, out.Source, out.Destination = browser, outer, b.Ready.Phones[i], phone
	if !toPhones {
		from, to = phoneSide, browserSide
		in.SSRC++
		in.ID++
		out.ID++
		in.Source, in.Destination, out.Source, out.Destination = phone, b.Ready.Phones[i], outer, browser
	}
	if in.Keys, err = b.Spec.session(i, from, false); err != nil {
		return in, out, err
	}
	out.Keys, err = b.Spec.session(i, to, true)
	return in, out, err
}

// Stats asks the engine.
func (b *Bench) Stats() (Stats, error) {
	var s Stats
	return s, b.process.ask(struct{}{}, &s)
}

// CPU is the processor time the engine's process has used: daemon and filler.
func (b *Bench) CPU() (time.Duration, error) {
	if b.process == nil {
		return 0, nil
	}
	return b.process.CPU()
}

// Close ends the engine and removes the lab.
func (b *Bench) Close() error {
	var errs []error
	for _, w := range []*Way{b.ToPhones, b.ToBrowsers} {
		if w != nil && w.Link != nil {
			errs = append(errs, w.Link.Close())
		}
	}
	if b.process != nil {
		errs = append(errs, b.process.Close())
	}
	errs = append(errs, b.Lab.Close())
	if b.Spec.PinDir != "" && b.Spec.Path != PathUser {
		errs = append(errs, os.RemoveAll(b.Spec.PinDir))
	}
	return errors.Join(errs...)
}

// Process is a program under measurement.
type Process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *tail
}

func startProcess(ctx context.Context, host *netlab.Host, cmd *exec.Cmd) (*Process, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, in: in, out: bufio.NewReader(out), errs: &tail{}}
	cmd.Stderr = p.errs
	if err := host.Do(func() error {
		_, cpu := processors()
		return errors.Join(pin(cpu), cmd.Start())
	}); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	context.AfterFunc(ctx, func() { p.in.Close() })
	return p, nil
}

// ask writes one JSON line and reads one.
func (p *Process) ask(question, answer any) error {
	q, err := json.Marshal(question)
	if err != nil {
		return err
	}
	if _, err := p.in.Write(append(q, '\n')); err != nil {
		return fmt.Errorf("engine is gone: %w: %s", err, p.errs)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("engine is gone: %w: %s", err, p.errs)
	}
	return json.Unmarshal(line, answer)
}

// CPU sums the time of all threads, from the scheduler's own account in ns.
func (p *Process) CPU() (time.Duration, error) { return threadTime(p.cmd.Process.Pid) }

func threadTime(pid int) (time.Duration, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range tasks {
		data, err := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
		if err != nil {
			continue // the thread has ended
		}
		var ran int64
		if _, err := fmt.Sscan(string(data), &ran); err != nil {
			return 0, fmt.Errorf("schedstat: %w", err)
		}
		sum += time.Duration(ran)
	}
	return sum, nil
}

// Close ends the process: end of input, then a signal after 10 s.
func (p *Process) Close() error {
	p.in.Close()
	stop := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer stop.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("engine: %w: %s", err, p.errs)
	}
	return nil
}

// tail keeps the last 4 KiB written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
