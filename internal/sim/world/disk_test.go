package world

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

type reopener struct {
	disk   *Disk
	engine *Engine
}

func (r *reopener) Engine() sheepdog.Engine { return r.engine }

func (r *reopener) Reopen(t *testing.T) {
	if err := r.engine.Close(); err != nil {
		t.Fatal(err)
	}
	r.engine = r.disk.Open(nil)
}

func TestDiskConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Reopener {
		d := NewDisk()
		return &reopener{d, d.Open(nil)}
	})
}

// A lost write leaves its record with the bytes of before, which do not match.
func TestLostWriteIsRotten(t *testing.T) {
	d := NewDisk()
	e := d.Open(nil)
	obj := sheepdog.ObjectID{Family: 1}
	for seq := range uint64(2) {
		errs := make([]error, 1)
		data := bytes.Repeat([]byte{byte(seq)}, sheepdog.BlockSize)
		e.Write([]sheepdog.Op{{Object: obj, Layer: 1, Count: 1, Data: data, Stamp: sheepdog.Stamp{Token: 1, Seq: seq + 1}}}, errs)
		if errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	if err := d.Sound(); err != nil {
		t.Fatal(err)
	}
	if n := d.Lose(rand.New(rand.NewPCG(1, 2)), 5); n != 1 {
		t.Fatalf("%d writes lost, want 1", n)
	}
	err := e.Read(obj, []sheepdog.LayerID{1}, 0, 1, make([]byte, sheepdog.BlockSize), make([]sheepdog.BlockState, 1))
	if !errors.Is(err, sheepdog.ErrChecksum) {
		t.Errorf("read: %v, want %v", err, sheepdog.ErrChecksum)
	}
}
