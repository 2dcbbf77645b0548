package location

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

func binding(n int, life time.Duration) Binding {
	return Binding{Contact: fmt.Sprintf("sip:u@192.0.2.%d", n), Flow: fmt.Sprint("f", n%3), Expires: time.Now().Add(life), CallID: fmt.Sprint("c", n), CSeq: 1}
}

func TestUpdate(t *testing.T) {
	m := NewMemory()
	defer m.Close()
	aor := AOR("Alice", "GW.test")
	if aor != "Alice@gw.test" {
		t.Fatal(aor)
	}
	for i := range MaxPerAOR {
		if _, err := m.Update(ctx, aor, []Binding{binding(i, time.Hour)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Update(ctx, aor, []Binding{binding(99, time.Hour)}, nil); !errors.Is(err, ErrTooMany) {
		t.Fatal(err)
	}
	// One out, one in fits.
	old := binding(3, 0)
	old.CSeq = 2
	bs, err := m.Update(ctx, aor, []Binding{binding(99, time.Hour)}, []Binding{old})
	if err != nil || len(bs) != MaxPerAOR || bs[0].Contact != binding(99, 0).Contact {
		t.Fatal(err, len(bs))
	}
	// The same REGISTER again, or an older one.
	if _, err := m.Update(ctx, aor, []Binding{binding(99, time.Hour)}, nil); !errors.Is(err, ErrOutOfOrder) {
		t.Fatal(err)
	}
	if _, err := m.Update(ctx, aor, nil, []Binding{binding(99, 0)}); !errors.Is(err, ErrOutOfOrder) {
		t.Fatal(err)
	}
}

func TestInstanceReplaces(t *testing.T) {
	m := NewMemory()
	defer m.Close()
	var events []Event
	defer m.Watch(func(e Event) { events = append(events, e) })()
	a := Binding{Contact: "sip:x@old.invalid", Instance: "<urn:uuid:1>", RegID: 1, Flow: "old", Expires: time.Now().Add(time.Hour)}
	b := a
	b.Contact, b.Flow = "sip:y@new.invalid", "new"
	for _, x := range []Binding{a, b} {
		if _, err := m.Update(ctx, "u@d", []Binding{x}, nil); err != nil {
			t.Fatal(err)
		}
	}
	bs, _ := m.Lookup(ctx, "u@d")
	if len(bs) != 1 || bs[0].Contact != b.Contact {
		t.Fatalf("%+v", bs)
	}
	if err := m.DropFlow(ctx, "old"); err != nil || m.Len() != 1 {
		t.Fatal("the old flow took the new binding with it")
	}
	if err := m.DropFlow(ctx, "new"); err != nil || m.Len() != 0 {
		t.Fatal("the binding outlives its flow")
	}
	if len(events) != 3 || events[0].Change != Added || events[1].Change != Refreshed || events[1].Old.Flow != "old" || events[2].Change != Removed {
		t.Fatalf("%+v", events)
	}
}

func TestExpiry(t *testing.T) {
	m := NewMemory()
	defer m.Close()
	ended := make(chan string, 4)
	defer m.Watch(func(e Event) {
		if e.Change == Expired {
			ended <- e.Binding.Contact
		}
	})()
	// The second one, put later, ends first.
	for _, b := range []Binding{binding(1, 120*time.Millisecond), binding(2, 30*time.Millisecond), binding(3, time.Hour)} {
		if _, err := m.Update(ctx, "u@d", []Binding{b}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 1} {
		select {
		case got := <-ended:
			if got != binding(want, 0).Contact {
				t.Fatalf("%s ended", got)
			}
		case <-time.After(3 * time.Second):
			t.Fatalf("binding %d does not end by itself", want)
		}
	}
	if m.Len() != 1 {
		t.Fatal(m.Len())
	}
}

// Whatever is done, the indexes agree with a plain list.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory()
		defer m.Close()
		now := time.Unix(1000, 0)
		m.now = func() time.Time { return now }
		m.closed = true // the test's clock, not the timer
		model := map[string]Binding{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				aor := fmt.Sprint("u", rapid.IntRange(0, 3).Draw(t, "aor"))
				b := Binding{AOR: aor, WebRTC: rapid.Bool().Draw(t, "web"), Contact: fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "contact")), Flow: fmt.Sprint("f", rapid.IntRange(0, 3).Draw(t, "flow")),
					Expires: now.Add(time.Duration(rapid.IntRange(1, 50).Draw(t, "life")) * time.Second)}
				if _, err := m.Update(ctx, aor, []Binding{b}, nil); err == nil {
					model[aor+b.Contact] = b
				}
			},
			"remove": func(t *rapid.T) {
				aor := fmt.Sprint("u", rapid.IntRange(0, 3).Draw(t, "aor"))
				b := Binding{Contact: fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "contact"))}
				if _, err := m.Update(ctx, aor, nil, []Binding{b}); err == nil {
					delete(model, aor+b.Contact)
				}
			},
			"flow": func(t *rapid.T) {
				f := fmt.Sprint("f", rapid.IntRange(0, 3).Draw(t, "flow"))
				_ = m.DropFlow(ctx, f)
				for k, b := range model {
					if b.Flow == f && b.WebRTC {
						delete(model, k)
					}
				}
			},
			"time": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "s")) * time.Second) },
			"": func(t *rapid.T) {
				for k, b := range model {
					if !b.Expires.After(now) {
						delete(model, k)
					}
				}
				m.due = time.Unix(1, 0) // look now
				if m.Len() != len(model) {
					t.Fatalf("%d bindings, the model has %d", m.Len(), len(model))
				}
				for i := range 4 {
					bs, _ := m.Lookup(ctx, fmt.Sprint("u", i))
					for _, b := range bs {
						if got := model[b.AOR+b.Contact]; got.Flow != b.Flow || !got.Expires.Equal(b.Expires) {
							t.Fatalf("%+v, the model has %+v", b, got)
						}
					}
				}
			},
		})
	})
}

func TestConcurrent(t *testing.T) {
	m := NewMemory()
	defer m.Close()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 300 {
				aor := fmt.Sprint("u", i%7)
				_, _ = m.Update(ctx, aor, []Binding{{Contact: fmt.Sprint(i % 5), Flow: fmt.Sprint("f", g), Expires: time.Now().Add(time.Millisecond)}}, nil)
				_, _ = m.Lookup(ctx, aor)
				_ = m.DropFlow(ctx, fmt.Sprint("f", i%4))
			}
		})
	}
	wg.Wait()
}
