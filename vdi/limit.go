package vdi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// LimitsKey is the attribute of a VDI that holds its limits. It is in the
// directory, so that every gateway keeps them.
const LimitsKey = "sheepdog.limits"

// Limits bound the I/O of a VDI through one gateway. Zero means unlimited.
type Limits struct {
	IOPS           uint64 `json:"iops,omitempty"` // reads, writes and discards per second
	BytesPerSecond uint64 `json:"bytesPerSecond,omitempty"`
	// BurstSeconds is for how long a VDI that was idle may go at any speed, counted
	// in what the limits would have allowed; 0: DefaultBurst.
	BurstSeconds float64 `json:"burstSeconds,omitempty"`
}

// Bounds of Limits.
const (
	DefaultBurst = 1.0
	MaxBurst     = 3600.0
)

// IsZero reports whether nothing is limited.
func (l Limits) IsZero() bool { return l.IOPS == 0 && l.BytesPerSecond == 0 }

func (l Limits) burst() time.Duration {
	if l.BurstSeconds == 0 {
		return time.Duration(DefaultBurst * float64(time.Second))
	}
	return time.Duration(l.BurstSeconds * float64(time.Second))
}

// Limits are those of a VDI.
func (m *Manager) Limits(name string) (Limits, error) {
	b, err := m.opt.Directory.Attr(name, "", LimitsKey)
	if errors.Is(err, sheepdog.ErrNotFound) {
		_, err := m.opt.Directory.Lookup(name)
		return Limits{}, err
	}
	if err != nil {
		return Limits{}, err
	}
	var l Limits
	if err := json.Unmarshal(b, &l); err != nil {
		return Limits{}, fmt.Errorf("attribute %s of VDI %s: %w: %v; set the limits again", LimitsKey, name, sheepdog.ErrInvalid, err)
	}
	return l, nil
}

// SetLimits replaces the limits of a VDI. They hold at once, on every gateway that
// follows the directory.
func (m *Manager) SetLimits(ctx context.Context, name string, l Limits) error {
	if l.BurstSeconds < 0 || l.BurstSeconds > MaxBurst {
		return fmt.Errorf("burst of %v seconds: want 0 to %v: %w", l.BurstSeconds, MaxBurst, sheepdog.ErrInvalid)
	}
	if l.IsZero() {
		if _, err := m.opt.Directory.Attr(name, "", LimitsKey); errors.Is(err, sheepdog.ErrNotFound) {
			_, err := m.opt.Directory.Lookup(name)
			return err
		}
		return m.SetAttr(ctx, directory.SetAttr{Name: name, Key: LimitsKey, Delete: true})
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return m.SetAttr(ctx, directory.SetAttr{Name: name, Key: LimitsKey, Value: b})
}

// open lists the families that are open here.
func (m *Manager) open() []*family {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*family
	for _, f := range m.families {
		if f.attached > 0 {
			out = append(out, f)
		}
	}
	return out
}

// adoptLimits makes an open family's limits those of the directory. What was
// borrowed or saved under other limits is forgotten.
func (m *Manager) adoptLimits(f *family) {
	entry, ok := m.opt.Directory.Family(f.id)
	if !ok {
		return
	}
	l, err := m.Limits(entry.Name)
	if err != nil || l.IsZero() {
		f.limit.Store(nil)
		return
	}
	if old := f.limit.Load(); old == nil || old.limits != l {
		f.limit.Store(&limiter{limits: l})
	}
}

// limiter keeps a family within its limits: a request may begin while what was
// begun before is paid for, but for the burst. So requests of any size get
// through, one after the other, and those after them wait for longer.
type limiter struct {
	limits Limits

	mu    sync.Mutex
	ops   time.Time // when the operations begun so far are paid for
	bytes time.Time
}

// take begins a request of n bytes and tells how long to wait before it.
func (l *limiter) take(now time.Time, n uint64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := l.wait(now)
	l.pay(now, n)
	return wait
}

// tryTake is take for those who cannot wait; it takes nothing where it is false.
func (l *limiter) tryTake(now time.Time, n uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wait(now) > 0 {
		return false
	}
	l.pay(now, n)
	return true
}

func (l *limiter) wait(now time.Time) time.Duration {
	owed := max(l.ops.Sub(now), l.bytes.Sub(now), 0) // of times long ago the difference is as low as it can be
	return max(owed-l.limits.burst(), 0)
}

func (l *limiter) pay(now time.Time, n uint64) {
	l.ops, l.bytes = later(l.ops, now), later(l.bytes, now)
	if r := l.limits.IOPS; r > 0 {
		l.ops = l.ops.Add(time.Duration(float64(time.Second) / float64(r)))
	}
	if r := l.limits.BytesPerSecond; r > 0 {
		l.bytes = l.bytes.Add(time.Duration(float64(time.Second) * float64(n) / float64(r)))
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// pace waits until the volume's limits let a request of n bytes begin. Snapshots
// have no limits.
func (v *Volume) pace(ctx context.Context, n uint64) error {
	if v.layer != 0 {
		return nil
	}
	l := v.family.Load().limit.Load()
	if l == nil {
		return nil
	}
	wait := l.take(time.Now(), n)
	if wait <= 0 {
		return nil
	}
	return v.m.sleep(ctx, wait)
}

// prompt reports whether the limits let a request begin at once, and counts it if
// they do.
func (v *Volume) prompt(n uint64) bool {
	l := v.family.Load().limit.Load()
	return l == nil || l.tryTake(time.Now(), n)
}
