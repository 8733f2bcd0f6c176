package world

import (
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
