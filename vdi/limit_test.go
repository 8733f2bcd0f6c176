package vdi

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
)

// A burst goes at once, then requests come at the rate, whichever way they go.
func TestLimitsOfOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, v := oneVDI(t, 4<<20)
		write(t, v, 0, fill(4096, 1))
		if err := m.SetLimits(t.Context(), "v", Limits{IOPS: 100, BurstSeconds: 0.5}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		buf := make([]byte, 4096)
		prompt := 0
		for i := range 250 {
			switch {
			case i%2 == 0 && v.TryReadAt(buf, 0):
				prompt++
				continue
			case i%2 == 0:
				expect(t, v, 0, fill(4096, 1))
				continue
			}
			var wg sync.WaitGroup
			wg.Add(1)
			if begin(t, v, 8192, fill(4096, 2), func(err error) {
				if err != nil {
					t.Error(err)
				}
				wg.Done()
			}) {
				prompt++
			}
			wg.Wait()
		}
		// 51 at once: the burst, and one that begins when it is used up.
		if took := time.Since(began); took < 1980*time.Millisecond || took > 2010*time.Millisecond {
			t.Errorf("250 requests at 100/s with a burst of half a second took %v, want 2s", took)
		}
		if prompt < 50 || prompt > 52 {
			t.Errorf("%d went the short way, want the burst of 50", prompt)
		}
		if err := m.SetLimits(t.Context(), "v", Limits{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began = time.Now()
		for range 100 {
			write(t, v, 0, fill(4096, 1))
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("without limits 100 writes took %v", took)
		}
	})
}

// Bytes count by size; one request larger than the burst gets through and is paid
// for by those after it.
func TestLimitsOfBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := w.manager(t, 1)
		create(t, m, "v", 4<<20)
		if err := m.SetLimits(t.Context(), "v", Limits{BytesPerSecond: 1 << 20, BurstSeconds: 0.25}); err != nil {
			t.Fatal(err)
		}
		v := open(t, m, "v", "") // limits are there from the beginning
		began := time.Now()
		write(t, v, 0, make([]byte, 2<<20))
		if took := time.Since(began); took != 0 {
			t.Errorf("the first write waited %v", took)
		}
		write(t, v, 0, fill(4096, 1))
		if took := time.Since(began); took < 1740*time.Millisecond || took > 1760*time.Millisecond {
			t.Errorf("after 2 MiB at 1 MiB/s, with a quarter of a second to spare, the next write came after %v", took)
		}
		other := open(t, m, "v", "")
		before := time.Now()
		expect(t, other, 0, fill(4096, 1))
		if time.Since(before) == 0 {
			t.Error("a second volume of the VDI has limits of its own")
		}
		time.Sleep(time.Minute)
		before = time.Now()
		for range 20 { // it saves no more than the burst: 64 blocks
			write(t, v, 0, make([]byte, 64<<10))
		}
		if took := time.Since(before); took < 900*time.Millisecond || took > 1000*time.Millisecond {
			t.Errorf("1.25 MiB after a pause took %v, want about 0.94 s", took)
		}
	})
}

func TestLimitsAreChecked(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	create(t, m, "v", 1<<20)
	for _, bad := range []Limits{{IOPS: 1, BurstSeconds: -1}, {IOPS: 1, BurstSeconds: MaxBurst + 1}} {
		if err := m.SetLimits(t.Context(), "v", bad); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := m.SetLimits(t.Context(), "none", Limits{IOPS: 1}); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("a VDI that is not there: %v", err)
	}
	if err := m.SetLimits(t.Context(), "none", Limits{}); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("a VDI that is not there: %v", err)
	}
	want := Limits{IOPS: 5, BytesPerSecond: 6, BurstSeconds: 7}
	if err := m.SetLimits(t.Context(), "v", want); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Limits("v"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if err := m.SetLimits(t.Context(), "v", Limits{}); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Limits("v"); err != nil || !got.IsZero() {
		t.Errorf("after removal: %+v, %v", got, err)
	}
}
