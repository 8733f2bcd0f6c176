package node

import (
	"time"

	"sheepdog/internal/shelf"
	"sheepdog/vdi"
)

// baseCache is the memory for data of frozen layers, in bytes. What of them came from
// other nodes is kept in a file under META as well, of at most shelfBytes, until nobody
// reads it for shelfKeep.
const (
	baseCache  = 64 << 20
	shelfBytes = 4 << 30
	shelfKeep  = 5 * time.Minute
)

// openShelf makes the shelf of a node that has its store on disks. One that took the
// place of another has none: that one's META failed.
func (n *Node) openShelf() vdi.Shelf {
	if n.cfg.Engine != nil {
		return nil
	}
	n.shelf = shelf.New[vdi.Chunk](shelf.Options{Dir: n.cfg.Meta, Slot: vdi.ChunkBytes, Limit: shelfBytes, Keep: shelfKeep, Log: n.log.With("part", "shelf")})
	n.onClose(n.shelf.Close)
	return n.shelf
}
