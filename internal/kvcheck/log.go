package kvcheck

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// The log of a memory table is a header, then transactions, then zeros. Each
// transaction is entries and a mark:
//
//	meta(1) user meta(1) uvarints { key length, value length, expiry } key value crc(4)
//
// The mark's key is markKey and a version of 8 bytes, its value the version in digits.
// All but the last transaction were synced before the next one began.
const (
	logHeader  = 20 // id of the key of encryption, and its vector
	maxKey     = 64 << 10
	maxValue   = 1 << 30
	maxMark    = 64 // bytes of a mark
	metaMark   = 1 << 7
	markKey    = "!badger!txn"
	markKeyLen = len(markKey) + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errNoEntry = errors.New("no entry")

// checkHead verifies that a log names no key of encryption, as there is none.
func checkHead(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var key [8]byte
	_, err = io.ReadFull(f, key[:])
	if err == nil && key != [8]byte{} {
		return fmt.Errorf("%s: %w: its header is not what it was", path, ErrDamaged)
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF { // a crash while it was made
		return nil
	}
	return err
}

// checkLog finds where Badger would end to read a log, and whether that is its end:
// the last transaction may be torn, so one mark may follow, but not two.
func checkLog(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := validEnd(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	marks, err := marksFrom(f, end)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if marks > 1 {
		return fmt.Errorf("%s: %w: it ends at %d, and %d transactions follow", path, ErrDamaged, end, marks)
	}
	return nil
}

// validEnd is the end of the last transaction that is whole.
func validEnd(f io.ReaderAt) (int64, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, logHeader, 1<<40), 64<<10)
	end := int64(logHeader)
	for at := end; ; {
		n, mark, err := readEntry(r)
		if err == io.EOF || err == io.ErrUnexpectedEOF || err == errNoEntry {
			return end, nil
		}
		if err != nil {
			return 0, err
		}
		at += n
		if mark {
			end = at
		}
	}
}

// readEntry reads an entry and returns its length, and whether it is a mark.
func readEntry(r *bufio.Reader) (n int64, mark bool, err error) {
	sum := crc32.New(castagnoli)
	head := &hashed{r: r, sum: sum}
	meta, _ := head.ReadByte()
	_, _ = head.ReadByte()
	key, _ := binary.ReadUvarint(head)
	value, _ := binary.ReadUvarint(head)
	_, _ = binary.ReadUvarint(head)
	if head.err != nil {
		return 0, false, head.err
	}
	if key == 0 || key > maxKey || value > maxValue {
		return 0, false, errNoEntry
	}
	if _, err := io.CopyN(sum, r, int64(key+value)); err != nil {
		return 0, false, err
	}
	var crc [4]byte
	if _, err := io.ReadFull(r, crc[:]); err != nil {
		return 0, false, err
	}
	if binary.BigEndian.Uint32(crc[:]) != sum.Sum32() {
		return 0, false, errNoEntry
	}
	return head.n + int64(key+value) + 4, meta&metaMark != 0, nil
}

// hashed hands bytes on and adds them to a checksum; err is its first error.
type hashed struct {
	r   *bufio.Reader
	sum io.Writer
	n   int64
	err error
}

func (h *hashed) ReadByte() (byte, error) {
	b, err := h.r.ReadByte()
	if err != nil {
		if h.err == nil {
			h.err = err
		}
		return 0, err
	}
	h.n++
	_, err = h.sum.Write([]byte{b})
	return b, err
}

// marksFrom counts the marks after an offset.
func marksFrom(f io.ReaderAt, at int64) (marks int, err error) {
	const headLen = 5 // lengths and expiry of a mark take a byte each
	buf := make([]byte, 256<<10)
	for {
		n, err := f.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		whole := n // marks that begin before are counted now
		if err == nil {
			whole -= maxMark
		}
		for i := 0; i < whole; i++ {
			k := bytes.Index(buf[i:n], []byte(markKey))
			if k < 0 {
				break
			}
			i += k
			if i >= headLen && i-headLen < whole && isMark(buf[i-headLen:n]) {
				marks++
			}
		}
		if err == io.EOF {
			return marks, nil
		}
		at += int64(whole)
	}
}

// isMark reports whether b begins with a mark that is as it was written.
func isMark(b []byte) bool {
	_, mark, err := readEntry(bufio.NewReader(bytes.NewReader(b[:min(len(b), maxMark)])))
	return err == nil && mark && len(b) > 2 && int(b[2]) == markKeyLen
}
