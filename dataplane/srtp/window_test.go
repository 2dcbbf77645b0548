package srtp

import (
	"testing"

	"pgregory.net/rapid"
)

func TestEstimate(t *testing.T) {
	at := func(h uint64) Window { return NewWindow(h, [2]uint64{1, 0}, true) }
	for _, v := range []struct {
		name string
		w    Window
		seq  uint16
		want uint64
	}{
		{"nothing seen", Window{}, 65000, 65000},
		{"next", at(5), 6, 6},
		{"roll-over", at(0xffff), 0, 1 << 16},
		{"before the roll-over", at(1<<16 | 3), 0xfff0, 0xfff0},
		{"half way ahead", at(2<<16 | 100), 100 + 1<<15, 2<<16 | (100 + 1<<15)},
		{"more than half way ahead is behind", at(2<<16 | 100), 101 + 1<<15, 1<<16 | (101 + 1<<15)},
		{"half way behind", at(2<<16 | 0x9000), 0x1000, 2<<16 | 0x1000},
		{"more than half way behind is ahead", at(2<<16 | 0x9000), 0x0fff, 3<<16 | 0x0fff},
		{"no roll-over counter -1", at(100), 60000, 60000},
		{"no roll-over counter -1 at 2^15", at(1 << 15), 65535, 65535},
		{"no roll-over counter 2^32", at(IndexMask), 1, 1},
	} {
		if got := v.w.Estimate(v.seq); got != v.want {
			t.Errorf("%s: %#x, want %#x", v.name, got, v.want)
		}
	}
	end := at(IndexMask)
	if end.Check(end.Estimate(1)) {
		t.Error("an index is accepted after the last of a key")
	}
}

// TestWindowModel compares with a set of everything ever accepted.
func TestWindowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Window
		seen := map[uint64]bool{}
		var top uint64
		for i, n := 0, rapid.IntRange(1, 300).Draw(t, "n"); i < n; i++ {
			step := rapid.OneOf(rapid.Int64Range(-200, 200), rapid.Int64Range(-2, 3), rapid.Int64Range(0, 40000)).Draw(t, "step")
			idx := uint64(max(0, int64(top)+step))
			want := len(seen) == 0 || idx > top || top-idx < WindowSize && !seen[idx]
			if got := w.Check(idx); got != want {
				t.Fatalf("Check(%d) at %d: %v", idx, top, got)
			}
			if want {
				w.Accept(idx)
				seen[idx] = true
				top = max(top, idx)
			}
			if w.Highest() != top {
				t.Fatalf("Highest %d, want %d", w.Highest(), top)
			}
			w = NewWindow(w.Highest(), w.Bits(), w.Started())
		}
	})
}

func TestNewWindowAt(t *testing.T) {
	w := NewWindowAt(1000)
	for i := uint64(0); i <= 1000; i++ {
		if w.Check(i) {
			t.Fatalf("%d may be accepted", i)
		}
	}
	if !w.Check(1001) {
		t.Fatal("1001 may not be accepted")
	}
}
