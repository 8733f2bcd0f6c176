package directory

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// jumpy is a directory whose proposers have clocks that jump by years, forwards
// and back: every command reaches it with another time.
type jumpy struct {
	d   *Directory
	rng *rand.Rand
}

// apply runs the command with a time of its own.
func (j *jumpy) apply(t interface{ Fatalf(string, ...any) }, index uint64, cmd Command) ([]byte, error) {
	other := reflect.New(reflect.TypeOf(cmd).Elem())
	other.Elem().Set(reflect.ValueOf(cmd).Elem())
	if at := other.Elem().FieldByName("Time"); at.IsValid() {
		at.Set(reflect.ValueOf(time.Unix(j.rng.Int64N(4e9), j.rng.Int64N(1e9))))
	}
	kind, body, err := Encode(other.Interface().(Command))
	if err != nil {
		t.Fatalf("encode %T: %v", cmd, err)
	}
	return j.d.Apply(index, kind, body)
}

// timeless is an image without its dates.
func timeless(image []byte) (any, error) {
	var out any
	err := json.Unmarshal(image, &out)
	return withoutDates(out), err
}

func withoutDates(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, date := range []string{"created", "deleted", "expires", "taken", "revertedAt"} {
			delete(v, date)
		}
		for key, value := range v {
			v[key] = withoutDates(value)
		}
	case []any:
		for i := range v {
			v[i] = withoutDates(v[i])
		}
	}
	return v
}

// A clock that jumps changes dates and nothing else: no command may decide by it,
// but for those that ask what has expired.
func TestClockThatJumpsChangesDatesOnly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(rt)
		j := &jumpy{New(), rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "clock"), 1))}
		m.also = func(cmd Command, result []byte, err error) {
			got, jumpyErr := j.apply(rt, m.index, cmd)
			if fmt.Sprint(err) != fmt.Sprint(jumpyErr) || !slices.Equal(result, got) {
				rt.Fatalf("%T: %s, %v here and %s, %v with another time", cmd, result, err, got, jumpyErr)
			}
		}
		steps := m.steps()
		steps[""] = func(*rapid.T) {
			img, err := j.d.Snapshot()
			if err != nil {
				rt.Fatalf("%v", err)
			}
			want, err := timeless(m.image())
			got, jumpyErr := timeless(img)
			if err != nil || jumpyErr != nil || !reflect.DeepEqual(want, got) {
				rt.Fatalf("they differ in more than dates (%v, %v):\n%s\n%s", err, jumpyErr, m.image(), img)
			}
		}
		rt.Repeat(steps)
	})
}
