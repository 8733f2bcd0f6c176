package cluster

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"sheepdog"
)

func sampleMeta() GossipMember {
	return GossipMember{
		Member:  sheepdog.Member{ID: 7, Incarnation: 9, Addr: "10.1.2.3:7000", Zone: 0xffffffff, VNodes: 65535},
		Cluster: sheepdog.ClusterID{1, 2, 3}, Former: formerIDs{{9}, {8}}, Hints: Hints{Version: "v1.0.0", Capacity: 1 << 40, Used: 12, Space: SpaceFull, Waiting: 70000, BadDisks: 2},
	}
}

func TestMetaComesBack(t *testing.T) {
	want := sampleMeta()
	b := encodeMeta(want)
	got, err := decodeMeta(append(b, "of a later version"...))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range b {
		if _, err := decodeMeta(b[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken", n, len(b))
		}
	}
	want.Addr, want.Hints.Version = strings.Repeat("a", maxAddr), strings.Repeat("v", 99)
	if b := encodeMeta(want); len(b) > 512 {
		t.Errorf("%d bytes do not fit into gossip", len(b))
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(encodeMeta(sampleMeta()))
	f.Add([]byte{metaVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if again, err := decodeMeta(encodeMeta(m)); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

func TestEntryComesBack(t *testing.T) {
	want := entry{request: request{1, 2, 1}, Type: entryMachine, Membership: membershipOf(3, 5), Kind: "vdi.create", Body: []byte("body")}
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeEntry(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	big := entry{Type: entryMachine, Body: make([]byte, maxEntry)}
	if _, err := big.encode(); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("entry without bound: %v", err)
	}
	var format errEntryFormat
	if _, err := decodeEntry([]byte{9, 1}); !errors.As(err, &format) {
		t.Errorf("format 9: %v", err)
	}
	if _, err := decodeEntry([]byte{entryVersion, 200}); !errors.As(err, &format) {
		t.Errorf("type 200: %v", err)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range []entry{{Type: entryLead}, {request: request{1, 2, 1}, Type: entryState, Kind: "k", Body: []byte("b")}} {
		b, err := e.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		if again, err := e.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x became %x, %v", b, again, err)
		}
	})
}

func FuzzDecodeOutcome(f *testing.F) {
	for _, b := range [][]byte{nil, {0}, {1}, []byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08result"), bytes.Repeat([]byte{0xff}, 40)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOutcome(b)
		if err != nil {
			return
		}
		if again := o.encode(); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	var b bytes.Buffer
	if err := (&fsmSnapshot{index: 5}).write(&b, []byte("a"), nil, []byte("ccc")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(append([]byte{snapshotVersion}, bytes.Repeat([]byte{0xff}, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		index, parts, err := readSnapshot(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := (&fsmSnapshot{index: index}).write(&again, parts[:]...); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%x became %x", b, again.Bytes())
		}
	})
}

func TestControlRefusesNonsense(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(1)
		c := w.nodes[1].Cluster
		if _, _, ok := c.HandleControl(context.Background(), "vdi.open", nil); ok {
			t.Error("took a method of somebody else")
		}
		id := c.clusterID()
		for method, body := range map[string]string{
			"cluster.nonsense": "{}", "cluster.confirm": "", "cluster.register": "[]", "cluster.propose": "short",
			"cluster.renew": strings.Repeat(" ", maxControl+1), "cluster.leave": `{"addr":"` + strings.Repeat("x", 300) + `"}`,
		} {
			if _, err, ok := c.HandleControl(context.Background(), method, []byte(body)); !ok || !errors.Is(err, sheepdog.ErrInvalid) {
				t.Errorf("%s: %v", method, err)
			}
		}
		unnumbered, _ := (&entry{Type: entryMachine}).encode()
		if _, err, _ := c.HandleControl(context.Background(), methodPropose, append(id[:], unnumbered...)); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("proposal without number: %v", err)
		}
	})
}
