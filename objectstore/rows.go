package objectstore

import (
	"cmp"
	"slices"
	"sync"

	"sheepdog"
)

// row is blocks that follow each other both in an answer and on their medium.
type row struct {
	at   place
	i, n int // where in the answer, and how many
}

// rows is the scratch of a read.
type rows struct {
	all    []row
	pieces [][]byte
}

var rowsPool = sync.Pool{New: func() any { return new(rows) }}

// readRows fills buf and tells of each part that it has read, in the order of their
// places: blocks that were written at random lie all over the log and the extents, and it
// costs less to go through those in their order than in that of the answer. Blocks that
// cannot be read get bytes that do not match.
func (d *Disk) readRows(slots []slot, buf []byte, got func(i, n int)) (err error) {
	r := rowsPool.Get().(*rows)
	defer rowsPool.Put(r)
	r.all = appendRows(r.all[:0], slots)
	for i := range slots {
		if slots[i].state != sheepdog.Data {
			clear(buf[i*blockSize:][:blockSize])
		}
	}
	for left := r.all; len(left) > 0; {
		n := sideBySide(left)
		if n == 1 || !d.tryGather(left[:n], buf, r) {
			n = 1
			err = cmp.Or(err, d.readAlone(left[0], slots, buf))
		}
		for _, w := range left[:n] {
			got(w.i, w.n)
		}
		left = left[n:]
	}
	return err
}

// appendRows appends the rows of the slots that have data, in the order of their places.
func appendRows(out []row, slots []slot) []row {
	for i := 0; i < len(slots); {
		if slots[i].state != sheepdog.Data {
			i++
			continue
		}
		n := rowLength(slots[i:])
		out = append(out, row{slots[i].at, i, n})
		i += n
	}
	slices.SortFunc(out, func(a, b row) int { return cmp.Compare(a.at, b.at) })
	return out
}

// rowLength is the number of data slots from the first whose places follow each
// other.
func rowLength(slots []slot) int {
	n := 1
	for n < len(slots) && slots[n].state == sheepdog.Data && slots[n].at.follows(slots[n-1].at) {
		n++
	}
	return n
}

// sideBySide is how many rows from the first lie side by side and have at most
// maxPrompt blocks together; 1 if only the first fits, or does not even so.
func sideBySide(all []row) int {
	n, blocks := 1, all[0].n
	for n < len(all) && all[n].at == all[n-1].at+place(all[n-1].n) && blocks+all[n].n <= maxPrompt {
		blocks += all[n].n
		n++
	}
	return n
}

// tryGather reads rows that lie side by side by one call, if the host has them in memory.
func (d *Disk) tryGather(side []row, buf []byte, r *rows) bool {
	f, off := d.fileOf(side[0].at)
	prompt, ok := f.(promptFile)
	if !ok {
		return false
	}
	r.pieces = r.pieces[:0]
	for _, w := range side {
		r.pieces = append(r.pieces, w.of(buf))
	}
	defer clear(r.pieces)
	return prompt.TryGatherAt(r.pieces, off)
}

// of is the row's part of an answer.
func (w row) of(buf []byte) []byte { return buf[w.i*blockSize:][:w.n*blockSize] }

// readAlone reads one row: block by block if one call for all of it fails.
func (d *Disk) readAlone(w row, slots []slot, buf []byte) error {
	if w.n <= maxPrompt && d.tryReadRow(w.at, w.of(buf)) {
		return nil
	}
	err := d.readRow(w.at, w.of(buf))
	for j := w.i; err != nil && j < w.i+w.n; j++ {
		b := row{slots[j].at, j, 1}.of(buf)
		if d.readRow(slots[j].at, b) != nil {
			rot(b, slots[j].crc)
		}
	}
	return err
}
