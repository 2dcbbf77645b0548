package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sluicegw/sluice/perf/netlab"
	"github.com/sluicegw/sluice/perf/traffic"
	"golang.org/x/sys/unix"
)

// Processors of a measurement: the traffic and, by softirq, the kernel path run
// on one, the engine's process on another. With one processor both share it.
func processors() (traffic, engine int) {
	n := runtime.NumCPU()
	return n - 1, 0
}

// OnTrafficCPU runs f on a thread of its own on the traffic's processor.
func OnTrafficCPU(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with f
		cpu, _ := processors()
		if err := pin(cpu); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// pin keeps the calling thread, and processes it starts, on one processor.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pinning to processor %d: %w", cpu, err)
	}
	return nil
}

// burst is how many frames a flood sends at once; a veth's ring holds 256.
const burst = 64

// idleTime of the traffic's processor since boot, in steps of 10 ms.
func idleTime() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	cpu, _ := processors()
	for line := range strings.Lines(string(data)) {
		var user, nice, system, idle, wait int64
		if f := strings.Fields(line); len(f) > 5 && f[0] == fmt.Sprintf("cpu%d", cpu) {
			if _, err := fmt.Sscan(strings.Join(f[1:6], " "), &user, &nice, &system, &idle, &wait); err != nil {
				return 0, fmt.Errorf("/proc/stat: %w", err)
			}
			return time.Duration(idle+wait) * 10 * time.Millisecond, nil
		}
	}
	return 0, fmt.Errorf("/proc/stat does not know cpu%d", cpu)
}

// Frames makes rounds frames of every source, a round after the other, ahead of
// time. Nothing of them is made while a measurement runs.
func (w *Way) Frames(rounds int) ([][]byte, error) {
	frames := make([][]byte, 0, rounds*len(w.Sources))
	var arena []byte
	for range rounds {
		for _, s := range w.Sources {
			f, err := s.Next(0)
			if err != nil {
				return nil, err
			}
			if len(arena) < len(f) {
				arena = make([]byte, 1<<20)
			}
			n := copy(arena, f)
			frames = append(frames, arena[:n:n])
			arena = arena[n:]
		}
	}
	return frames, nil
}

// Passed is what a flood did.
type Passed struct {
	Sent, Received uint64
	Took           time.Duration // from the first packet to the last
	Busy           time.Duration // of the traffic's processor, softirq included
	Engine         time.Duration // the engine's process, all threads
}

// Flood sends the frames as fast as one processor does, or at pps when it is not
// 0, and counts what arrives at the far interface.
func (w *Way) Flood(ctx context.Context, frames [][]byte, pps float64, cpu func() (time.Duration, error)) (Passed, error) {
	p := Passed{}
	before, err := w.arrived()
	if err != nil {
		return p, err
	}
	used, err := cpu()
	if err != nil {
		return p, err
	}
	if err := OnTrafficCPU(func() error {
		idle, err := idleTime()
		if err != nil {
			return err
		}
		start := time.Now()
		for i := 0; i < len(frames) && ctx.Err() == nil; {
			n := min(burst, len(frames)-i)
			if pps > 0 {
				due := int(time.Since(start).Seconds()*pps) - i
				if due <= 0 {
					time.Sleep(time.Millisecond) // no spinning: waiting must not look like work
					continue
				}
				n = min(n, due)
			}
			n, err := w.Link.Send(frames[i : i+n])
			p.Sent += uint64(n)
			if err != nil {
				return err
			}
			i += n
		}
		p.Took = time.Since(start)
		after, err := idleTime()
		p.Busy = p.Took
		if pps > 0 {
			p.Busy -= min(after-idle, p.Took)
		}
		return err
	}); err != nil {
		return p, err
	}
	// What the engine still has in hand arrives shortly; wait while it grows.
	deadline := time.Now().Add(2 * time.Second)
	for last := uint64(0); ; {
		now, err := w.arrived()
		if err != nil {
			return p, err
		}
		p.Received = now - before
		if p.Received >= p.Sent || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		if p.Received == last && time.Until(deadline) < time.Second {
			break
		}
		last = p.Received
		time.Sleep(20 * time.Millisecond)
	}
	after, err := cpu()
	p.Engine = after - used
	return p, err
}

// arrived is the number of packets the far end's interface has received.
func (w *Way) arrived() (n uint64, err error) {
	return n, w.To.Do(func() error {
		n, err = netlab.Received(netlab.HostSide)
		return err
	})
}

// Verify sends rounds of every source at pps, paced, and checks every packet
// that comes out. The latency is from before the send call to after the receive
// call.
func (w *Way) Verify(ctx context.Context, rounds int, pps float64) (traffic.Tally, *traffic.Checker, error) {
	checker, err := traffic.NewChecker(w.Expect)
	if err != nil {
		return traffic.Tally{}, nil, err
	}
	var in *traffic.Link
	if err := w.To.Do(func() (err error) { in, err = traffic.OpenLink(netlab.HostSide, true); return err }); err != nil {
		return traffic.Tally{}, nil, err
	}
	defer in.Close()
	sent := make(chan struct{})
	var received error
	var reading sync.WaitGroup
	reading.Go(func() {
		idle := 0
		for idle < 4 {
			n, err := in.Receive(func(f []byte) {
				if port, p, ok := traffic.Payload(f); ok {
					checker.Packet(port, p, monotonic())
				}
			})
			if err != nil {
				received = err
				return
			}
			select {
			case <-sent:
				idle++
				if n > 0 {
					idle = 0
				}
			default:
			}
		}
	})
	err = OnTrafficCPU(func() error {
		start, n := time.Now(), 0
		for range rounds {
			for _, s := range w.Sources {
				for due := start.Add(time.Duration(float64(n) / pps * 1e9)); time.Until(due) > 0; {
					if d := time.Until(due); d > 200*time.Microsecond {
						time.Sleep(d - 100*time.Microsecond)
					}
				}
				f, err := s.Next(monotonic())
				if err != nil {
					return err
				}
				if _, err := w.Link.Send([][]byte{f}); err != nil {
					return err
				}
				n++
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	close(sent)
	reading.Wait()
	lost, lerr := in.Lost()
	if lost > 0 {
		lerr = fmt.Errorf("the checker's own socket lost %d packets: the figure is void", lost)
	}
	return checker.Tally(), checker, errors.Join(err, received, lerr)
}

// beyondCut is more packets than an engine takes after a stream was handed over:
// those below the cut are still the user engine's.
const beyondCut = 48

// Settle sends rounds of every source until each flow takes the bench's path, and
// then past the cut of its hand-over.
func (b *Bench) Settle(ctx context.Context) error {
	deadline := time.Now().Add(20*time.Second + time.Duration(b.Spec.Calls)*10*time.Millisecond)
	for {
		if err := b.send(ctx, 1); err != nil {
			return err
		}
		s, err := b.Stats()
		if err != nil {
			return err
		}
		if s.Flows[b.Spec.Path] >= 2*b.Spec.Calls {
			if b.Spec.Path == PathUser {
				return nil
			}
			return b.send(ctx, beyondCut)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d flows take %s: %v", s.Flows[b.Spec.Path], 2*b.Spec.Calls, b.Spec.Path, s.Flows)
		}
	}
}

// send sends rounds of every source both ways, at a call's usual 50 packets a
// second and no more than the user engine takes.
func (b *Bench) send(ctx context.Context, rounds int) error {
	for _, w := range []*Way{b.ToPhones, b.ToBrowsers} {
		frames, err := w.Frames(rounds)
		if err != nil {
			return err
		}
		if _, err := w.Flood(ctx, frames, min(max(1000, 50*float64(len(w.Sources))), 50_000), b.CPU); err != nil {
			return err
		}
	}
	return nil
}

func monotonic() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
