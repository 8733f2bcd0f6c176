package nbd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestBufferClasses(t *testing.T) {
	var b buffers
	for _, tt := range []struct {
		n    int
		want int64
	}{{0, 4096}, {1, 4096}, {4096, 4096}, {4097, 8192}, {1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20}, {largestBuffer, largestBuffer}} {
		p := b.get(tt.n)
		if bufferCap(tt.n) != tt.want || int64(len(*p)) != tt.want {
			t.Errorf("%d bytes: cap %d, buffer %d, want %d", tt.n, bufferCap(tt.n), len(*p), tt.want)
		}
		b.put(p)
	}
}

func testWindow(reserve, shared int64) *window {
	return newWindow(&Config{MaxRequests: 3, MaxConnectionBytes: 100, ReservedBytes: reserve}, newBudget(shared), nil)
}

func TestWindowLimits(t *testing.T) {
	w := testWindow(10, 1000)
	a, ok := w.tryAdmit(10)
	if !ok || a.shared {
		t.Fatalf("first is %+v, %v", a, ok)
	}
	b, ok := w.tryAdmit(10)
	if !ok || !b.shared || !w.holdsShared() {
		t.Fatalf("second is %+v, %v", b, ok)
	}
	if _, ok := w.tryAdmit(81); ok {
		t.Error("more bytes than the connection may have")
	}
	c, ok := w.tryAdmit(80)
	if !ok {
		t.Error("last bytes refused")
	}
	if _, ok := w.tryAdmit(0); ok {
		t.Error("more requests than the connection may have")
	}
	for _, ch := range []charge{a, b, c} {
		w.leave(ch)
	}
	if w.inFlight() != 0 || w.holdsShared() || w.bytes != 0 || w.reserve != 10 || !w.shared.tryTake(1000) {
		t.Errorf("not everything came back: %+v", w)
	}
}

// A request beyond the connection's bytes goes alone.
func TestWindowOversize(t *testing.T) {
	w := testWindow(10, 1000)
	ch, ok := w.tryAdmit(500)
	if !ok {
		t.Fatal("refused although alone")
	}
	if _, ok := w.tryAdmit(1); ok {
		t.Error("not alone")
	}
	w.leave(ch)
}

func TestWindowWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newBudget(100)
		first, second := testWindow(10, 0), testWindow(10, 0)
		first.shared, second.shared = shared, shared
		ch, ok := first.tryAdmit(100)
		if !ok {
			t.Fatal("refused")
		}
		admitted := make(chan charge)
		go func() {
			got, err := second.admit(t.Context(), 50)
			if err != nil {
				t.Error(err)
			}
			admitted <- got
		}()
		synctest.Wait()
		if !shared.pressed() {
			t.Error("nobody waits")
		}
		if small, ok := second.tryAdmit(10); !ok || small.shared {
			t.Error("the reserve is not the connection's own")
		}
		first.leave(ch)
		second.leave(<-admitted)
		if shared.pressed() {
			t.Error("somebody still waits")
		}
	})
}

func TestWindowGivesUp(t *testing.T) {
	w := testWindow(10, 100)
	why := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	for range 3 {
		if _, err := w.admit(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	cancel(why)
	if _, err := w.admit(ctx, 0); !errors.Is(err, why) {
		t.Errorf("err is %v", err)
	}
	w = testWindow(10, 100)
	if _, err := w.admit(ctx, 500); !errors.Is(err, why) || w.inFlight() != 0 {
		t.Errorf("err is %v, %d in flight", err, w.inFlight())
	}
}

func TestStandstill(t *testing.T) {
	var p progress
	var s standstill
	now := time.Unix(100, 0)
	at := func(sec int) time.Duration { return s.lasted(&p, now.Add(time.Duration(sec)*time.Second)) }
	if d := at(0); d != 0 {
		t.Errorf("%v while idle", d)
	}
	p.begin()
	if d := at(7); d != 7*time.Second {
		t.Errorf("%v, want 7s", d)
	}
	p.step()
	if d := at(8); d != 0 {
		t.Errorf("%v after a step", d)
	}
	p.end()
	p.begin() // between two looks
	if d := at(20); d != 0 {
		t.Errorf("%v in a new transfer", d)
	}
}

func TestPreferredBlock(t *testing.T) {
	for wish, want := range map[uint32]uint32{
		0: 512, 1: 512, 512: 512, 513: 512, 4096: 4096, 5000: 4096, 4 << 20: 4 << 20, 1 << 31: 32 << 20, 1<<32 - 1: 32 << 20,
	} {
		if got := preferredBlock(wish, 32<<20); got != want {
			t.Errorf("%d becomes %d, want %d", wish, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", 5000), strings.Repeat("ü", 5000), "a\xff\xfeb", strings.Repeat("\xff", 5000)} {
		got := clip(text)
		if len(got) > maxText || !utf8.ValidString(got) || (text != "" && got == "") {
			t.Errorf("%.10q becomes %d bytes %.10q", text, len(got), got)
		}
	}
}
